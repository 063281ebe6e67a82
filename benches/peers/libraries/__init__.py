"""Who takes part, in the order of columns: add a file and a line here."""

from .gloo import Gloo
from .intel import IntelMpi
from .mpich import Mpich
from .oneccl import OneCcl
from .openmpi import OpenMpi, OpenMpiUcx
from .raw import Raw
from .ringfold import Ringfold, RingfoldShared
from .xgb import XGBoost

ALL = [
    Ringfold(),
    RingfoldShared(),
    OpenMpi(),
    OpenMpiUcx(),
    Mpich(),
    IntelMpi(),
    OneCcl(),
    Gloo(),
    XGBoost(),
    Raw(),
]
