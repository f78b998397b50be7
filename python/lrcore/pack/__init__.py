"""One flat buffer with named, shaped views: model code uses the views, and a fused step uses the buffer."""

from lrcore._checks import shape_of
from lrcore.pack._node import layout
from lrcore.pack._pack import Pack, PackList

__all__ = ["Pack", "PackList", "layout", "shape_of"]

for _class in (Pack, PackList):
    _class.__module__ = __name__  # the module name in pickles
