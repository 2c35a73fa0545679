"""Updates that lie elsewhere, on a disk say, and are read one module at a time."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import final, overload

from potluck.aggregation.lowrank import LowRank
from potluck.aggregation.updates import Update


@final
class Parts(Mapping[str, LowRank]):
    """An adapter whose modules are read when they are asked for, and not kept.

    Thousands of updates may share one mapping of *names*; any other collection is copied.
    """

    def __init__(self, names: Collection[str], read: Callable[[str], LowRank]) -> None:
        self._names: Mapping[str, object] = names if isinstance(names, Mapping) else dict.fromkeys(names)
        self._read = read

    def __getitem__(self, name: str) -> LowRank:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@final
class StoredUpdates(Sequence[Update]):
    """A round's updates, opened one at a time; each reads a module only when asked, such as through Parts.

    `aggregate` then goes through a round module by module: it holds one module of a few updates, whatever their
    number and size.  Give every update its key, or its whole content is read once more to put the round in order.
    """

    def __init__(self, count: int, opened: Callable[[int], Update]) -> None:
        self._count = count
        self._opened = opened

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Update: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Update]: ...
    def __getitem__(self, place: int | slice) -> Update | Sequence[Update]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(self._count))]
        if not 0 <= place < self._count:
            raise IndexError(place)
        return self._opened(place)
