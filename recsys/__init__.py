"""recsys: recommenders whose embedding tables fit the memory you have.

Importing this package loads neither torch nor any other heavy package; classes are imported from
their modules, for example ``from recsys.models.ctr.dcn_v2 import DCNv2``.

Example:
    >>> import recsys
    >>> recsys.__version__.count(".")
    2
"""

__version__ = "0.1.0"
