"""What travels with a function: its code, and the values that the code captured.

Theory. *Reach* (`reach.py`) walks from a function over everything that it can get at by name:
helper functions and classes of the notebook, closure cells, modules, values. Code becomes a
*version*: a structural hash (`tokens.py`) that names the file of no kernel and the address of no
object, so that an unchanged function keeps its version when its cell is run again, or in another
kernel. Values become a *snapshot*, each with its own digest. *Watch* (`watch.py`) remembers the
identities of everything that the walk has seen; while they are the same, nothing is walked again,
and only what can change in place is pickled again and compared.

Guarantees: nothing stale is called up to date: a name that is assigned, deleted or defined later, a
list changed in place, a default, a class attribute, an edited local module are all seen by the next
`read`. What cannot be pickled raises `SerializationError` with the path to it, before anything is
sent.
Not guaranteed: names that are reached through `eval`, `globals()[...]` or strings.
"""

from notebook_ext.capture import definitions  # noqa: F401  from now on, classes travel up to date
from notebook_ext.capture.capturer import Captured, Capturer

__all__ = ["Captured", "Capturer"]
