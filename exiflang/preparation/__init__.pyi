from .dataset import prepare as prepare
from .options import Contents as Contents
from .options import Limits as Limits
from .options import Simulation as Simulation
from .options import Split as Split
from .options import Work as Work
from .options import grouped as grouped
from .tiles import cut_tiles as cut_tiles
