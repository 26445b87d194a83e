from .reader import canonical_tags as canonical_tags
from .reader import read_exif as read_exif
from .reference import reference_sentence as reference_sentence
from .tags import ExifError as ExifError
from .text import SENTENCE_VERSION as SENTENCE_VERSION
from .text import TagVocabulary as TagVocabulary
from .text import exif_to_text as exif_to_text
