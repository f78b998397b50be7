"""One flat buffer with named, shaped views: ordinary model code on one side, one fused step on the other."""

from lrcore._checks import shape_of
from lrcore.pack._node import layout
from lrcore.pack._pack import Pack, PackList

__all__ = ["Pack", "PackList", "layout", "shape_of"]

for _class in (Pack, PackList):
    _class.__module__ = __name__  # the name that pickles have
