from .authentic_records import authentic_calibration as authentic_calibration
from .packaging import Released as Released
from .packaging import ReleaseError as ReleaseError
from .packaging import release as release
