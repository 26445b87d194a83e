"""YFCC100M's dumps → the photos worth downloading: URL, license and EXIF as in the dump.

Both dumps have 100 million rows. Only narrow columns (ids, URLs, tag counts) are kept, in a DuckDB file that is
removed afterwards; the wide dump of EXIF is read twice instead. DuckDB spills to disk beyond its memory limit.
"""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote_plus

from tqdm.auto import tqdm

from exiflang.data.shards import DataError
from exiflang.utils.extras import extra

with extra("data"):
    import duckdb
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as csv

MEMORY, THREADS = "700MB", 2  # for DuckDB; reading takes about 300 MB more
BLOCK = 4 << 20  # bytes per read, and the longest possible row
PIECE = 200_000  # photos sorted at a time
MAX_FIELD = 1_000_000  # characters of a photo's EXIF

# Positions among 23 columns; dumps with 25 have a line number before the id and a hash after it.
_COLUMNS = {"download": 15, "licence": 17, "server": 18, "secret": 21, "extension": 22, "marker": 23}


def yfcc_photos(
    dataset: Sequence[str],
    exif: Sequence[str],
    left_out: Counter[str],
    *,
    sample: int = 0,
    seed: int = 0,
    min_tags: int = 10,
) -> Iterator[pa.RecordBatch]:
    """The photos of `yfcc100m_dataset` with at least `min_tags` tags in `yfcc100m_exif`, joined by id.

    Yields batches of photo (id), url, licence (its URL) and exif (the raw field, see `decode_exif`), all strings, in a
    random order that depends only on `seed` and the ids. Repeated tags count each time; canonical tags are counted when
    a photo is cut. If a photo is listed twice, one row is used. The url is that of the original file or, if the dump
    lacks its secret, of a 500 px copy recompressed by Flickr.

    Args:
        dataset, exif: the files of each dump, tab-separated as published, plain or `.bz2`, with 23 or 25 columns and 2.
        sample: number of photos to draw, uniformly, by the smallest MD5 of "seed:id"; 0: all.
        left_out: counts the rows left out by reason; complete after the last batch.

    Raises:
        DataError: a dump that cannot be read or is damaged.

    Needs temporary disk space (`TMPDIR`): about 15 GB for all of YFCC100M, plus the EXIF of the photos drawn.
    """
    least = max(min_tags, 1)
    with tempfile.TemporaryDirectory(prefix="exiflang-") as folder, duckdb.connect(f"{folder}/yfcc.db") as con:
        place = folder.replace("'", "''")
        con.execute(f"SET memory_limit = '{MEMORY}'; SET threads = {THREADS}; SET temp_directory = '{place}'")
        con.execute("SET preserve_insertion_order = false; SET enable_progress_bar = false")
        with _rows(con, dataset, left_out):
            con.execute(_READ_DATASET)
        with _rows(con, exif, left_out):
            con.execute(_READ_EXIF)
        con.execute(_UNIQUE)
        _count(con, left_out, least)
        con.execute(_CHOOSE, [f"{seed}:", least, sample])
        chosen = con.sql("SELECT count(*) FROM chosen").fetchall()[0][0]
        eligible = con.execute("SELECT count(*) FROM tagged WHERE tags >= ?", [least]).fetchall()[0][0]
        if eligible > chosen:
            left_out["not drawn"] += eligible - chosen
        pieces = chosen // PIECE + 1
        with _rows(con, exif, Counter()):
            con.execute(_JOIN.format(pieces=pieces, folder=place))
        for piece in range(pieces):
            if os.path.isdir(f"{folder}/pieces/piece={piece}"):
                rows = con.sql(_SORT.format(folder=place, piece=piece))
                yield from _without_repetitions(rows.to_arrow_reader(10_000))


def decode_exif(field: str) -> dict[str, str]:
    """A field of `yfcc100m_exif`, "Exif+IFD0.Make:Canon,…" → {"Exif IFD0.Make": "Canon"}, as `canonical_tags` reads it.

    The first value of a repeated tag is used; empty names and values are dropped, and invalid encodings become U+FFFD.
    Only the first million characters are read.
    """
    found: dict[str, str] = {}
    for pair in field[:MAX_FIELD].split(","):
        name, _, value = (unquote_plus(part) for part in pair.partition(":"))
        if name.strip() and value:
            found.setdefault(name, value)
    return found


# URLs are built only from fields that match strict patterns.
_READ_DATASET = f"""
    CREATE TABLE listed AS
    SELECT n,
           CASE WHEN regexp_full_match(id, '[0-9]{{1,20}}') THEN id END AS id,
           marker,
           licence,
           CASE WHEN regexp_full_match(server, '[0-9]{{1,9}}') AND regexp_full_match(secret, '[0-9a-f]{{1,40}}')
                     AND regexp_full_match(extension, '[a-z]{{3,4}}')
                THEN 'https://live.staticflickr.com/' || server || '/' || id || '_' || secret || '_o.' || extension
                WHEN starts_with(download, 'http%3A') THEN url_decode(download)
                WHEN starts_with(download, 'http') THEN download END AS url
    FROM (SELECT n, f[1 + shift // 2] AS id,
                 {", ".join(f"f[{place} + shift] AS {name}" for name, place in _COLUMNS.items())}
          FROM (SELECT f, len(f) AS n, if(len(f) = 25, 2, 0) AS shift
                FROM (SELECT string_split(line, chr(9)) AS f FROM rows)))"""
# Each tag has one colon: any others are percent-encoded.
_READ_EXIF = """
    CREATE TABLE told AS
    SELECT f[1] AS id, len(field) - len(replace(field, ':', '')) AS tags
    FROM (SELECT f, coalesce(f[2], '') AS field FROM (SELECT string_split(line, chr(9)) AS f FROM rows))"""
_UNIQUE = """
    CREATE TABLE photos AS
    SELECT id, min(url) AS url, coalesce(min(licence), '') AS licence FROM listed
    WHERE n IN (23, 25) AND marker = '0' AND id IS NOT NULL AND url IS NOT NULL GROUP BY id;
    CREATE TABLE tagged AS
    SELECT id, coalesce(max(tags), 0) AS tags FROM photos LEFT JOIN told USING (id) GROUP BY id;
    DROP TABLE told"""
_CHOOSE = """
    CREATE TABLE chosen AS
    SELECT id, url, licence, md5($1 || id) AS draw FROM photos JOIN tagged USING (id) WHERE tags >= $2
    ORDER BY draw, id LIMIT if($3 = 0, 9223372036854775807, $3)"""
# Sorted in pieces, each a range of `draw`: a single sort would not fit into memory.
_JOIN = """
    COPY (SELECT id AS photo, url, licence, f[2] AS exif, draw, ('0x' || draw[:7])::BIGINT * {pieces} >> 28 AS piece
          FROM (SELECT string_split(line, chr(9)) AS f FROM rows) JOIN chosen ON id = f[1]
          WHERE f[2] <> '')
    TO '{folder}/pieces' (FORMAT parquet, PARTITION_BY (piece))"""
_SORT = """
    SELECT photo, url, licence, exif
    FROM read_parquet('{folder}/pieces/piece={piece}/*.parquet', hive_partitioning = false)
    ORDER BY draw, photo, len(exif) DESC, exif"""


def _count(con: duckdb.DuckDBPyConnection, left_out: Counter[str], min_tags: int) -> None:
    ((columns, videos, unnamed, good),) = con.execute(
        """SELECT count(*) FILTER (n NOT IN (23, 25)),
                  count(*) FILTER (n IN (23, 25) AND marker <> '0'),
                  count(*) FILTER (n IN (23, 25) AND marker = '0' AND (id IS NULL OR url IS NULL)),
                  count(*) FILTER (n IN (23, 25) AND marker = '0' AND id IS NOT NULL AND url IS NOT NULL) FROM listed"""
    ).fetchall()
    ((photos, bare, few),) = con.execute(
        "SELECT count(*), count(*) FILTER (tags = 0), count(*) FILTER (tags > 0 AND tags < ?) FROM tagged", [min_tags]
    ).fetchall()
    found = {
        "row that has neither 23 nor 25 columns": columns,
        "video": videos,
        "no id or no address": unnamed,
        "listed again": good - photos,
        "no EXIF": bare,
        f"fewer than {min_tags} EXIF tags": few,
    }
    left_out.update({reason: number for reason, number in found.items() if number})


@contextmanager
def _rows(con: duckdb.DuckDBPyConnection, paths: Sequence[str], left_out: Counter[str]) -> Iterator[None]:
    """The dump's lines as the relation `rows (line)`, to be read once; any failure becomes a `DataError`."""
    begun: list[str] = []

    def batches() -> Generator[pa.RecordBatch]:
        for path in paths:
            begun.append(path)
            yield from _batches(path, left_out)

    try:
        with closing(batches()) as found:
            con.register("rows", pa.RecordBatchReader.from_batches(pa.schema([("line", pa.string())]), found))
            yield
            con.unregister("rows")
    except (duckdb.Error, pa.ArrowException, OSError, EOFError) as error:
        what = " ".join(re.sub(r"Detail:.*", "", str(error)).split())[:300]
        raise DataError(f"{begun[-1]}: cannot be read to its end ({what}): download it again") from error


def _batches(path: str, left_out: Counter[str]) -> Iterator[pa.RecordBatch]:
    def skip(_: csv.InvalidRow) -> str:
        left_out["row with control characters"] += 1
        return "skip"

    if not os.path.getsize(path):
        return
    size, compression = os.path.getsize(path), "bz2" if Path(path).suffix == ".bz2" else None
    with (
        open(path, "rb") as raw,
        tqdm.wrapattr(raw, "read", size, desc=f"read {Path(path).name}", leave=False) as watched,
        pa.input_stream(watched, compression=compression) as file,
    ):
        lines = csv.open_csv(
            file,
            read_options=csv.ReadOptions(column_names=["line"], block_size=BLOCK),
            # a delimiter that no row contains: lines are read whole, because the number of columns varies
            parse_options=csv.ParseOptions(delimiter="\x01", quote_char=False, invalid_row_handler=skip),
            convert_options=csv.ConvertOptions(column_types={"line": pa.binary()}, strings_can_be_null=False),
        )
        yield from (pa.record_batch([_text(batch.column(0))], names=["line"]) for batch in lines)


def _text(lines: pa.Array) -> pa.Array:
    try:
        return lines.cast(pa.string())
    except pa.ArrowInvalid:  # a few lines are not UTF-8
        return pa.array([line.decode("utf-8", "replace") for line in lines.to_pylist()], pa.string())


def _without_repetitions(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The first row of each run of rows of the same photo."""
    before = None
    for batch in batches:
        photos = batch.column("photo")
        if len(photos):
            earlier = pa.concat_arrays([pa.array([before], photos.type), photos[:-1]])
            before = photos[-1].as_py()
            yield batch.filter(pc.fill_null(pc.not_equal(photos, earlier), True))
