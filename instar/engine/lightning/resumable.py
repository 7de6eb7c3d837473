"""An epoch that is taken up in its middle, with loaders that know nothing of it."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from instar.engine import generators

if TYPE_CHECKING:
    from instar.engine.lightning.session import Session
    from instar.engine.lightning.watch import Watch


class Resumable(CombinedLoader):
    """The training loaders, able to take up an epoch in its middle.

    A loader that knows its own state is asked for it. Any other begins the epoch again with the generators it began
    with, and gives away what was seen already: the order, and all that the data set draws from Python's, NumPy's and
    PyTorch's generators, is then as if nothing had happened.
    """

    def __init__(self, iterables: Any, mode: Any, watch: "Watch"):
        super().__init__(iterables, mode)
        self._watch = watch
        watch.loader = self
        self._begun: dict[str, Any] | None = None
        self._drawn = 0
        self._state: dict[str, Any] | None = None
        self._now: dict[str, Any] | None = None

    def __iter__(self) -> "Resumable":
        if self._watch.kept is not None:
            self.take_up(self._watch.kept)
            self._watch.kept = None
        state, knows = self._state, self._knows_itself()
        within = state is not None and state["drawn"] > 0 and not knows
        if state is not None and not knows:
            generators.put(state["begun"] if within else state["now"])
            self._put_own(state["own"])
            self._set_epoch(state["epoch"])
        self._begun = {"begun": generators.take(), "own": self._own()}
        self._drawn = 0
        super().__iter__()
        for _ in range(state["drawn"] if state is not None and within else 0):
            super().__next__()
        if state is not None:
            self._drawn = state["drawn"]
            # Not now: what is still set up before the first batch draws numbers too, and may begin once more.
            self._now = state["now"] if within or knows else generators.take()
        return self

    def __next__(self) -> Any:
        if self._now is not None:
            generators.put(self._now)
            self._now = self._state = None
        found = super().__next__()
        self._drawn += 1
        return found

    def capture(self) -> dict[str, Any]:
        """The state of the loaders and the generators, of every rank. Every rank calls it."""
        over = self._watch.epoch_is_over
        mine = {
            "begun": (self._begun or {}).get("begun"),
            "own": self._own() if over else (self._begun or {}).get("own", []),
            "drawn": 0 if over else self._drawn,
            "epoch": self._watch.epoch + over,
            "now": generators.take(),
            "running": {} if over else self._watch.running(),
        }
        ranks: list[Any] = [mine]
        if self._watch.session.world.size > 1:
            ranks = [None] * self._watch.session.world.size
            dist.all_gather_object(ranks, mine)
        return {"loaders": super()._state_dicts(), "ranks": ranks}

    def take_up(self, found: dict[str, Any]) -> None:
        """Go on, at the next iteration, from what `capture` gave."""
        world, view = self._watch.session.world, self._watch.session.view
        super()._load_state_dicts(found["loaders"])
        if len(found["ranks"]) != world.size:
            view.note(f"{len(found['ranks'])} ranks saved, {world.size} go on: the epoch goes on with other batches")
            return
        self._state = found["ranks"][world.rank]
        self._watch.carried = self._state["running"]

    def _state_dicts(self) -> list[dict[str, Any]]:
        # Lightning gives them back in the middle of an epoch only; a callback's state it always does.
        return []

    def _knows_itself(self) -> bool:
        return any(isinstance(getattr(one, "load_state_dict", None), Callable) for one in self.flattened)  # type: ignore[arg-type]

    def _own_generators(self) -> list[torch.Generator]:
        found = {}
        for loader in self.flattened:
            sampler = getattr(loader, "sampler", None)
            for holder in (loader, sampler, getattr(sampler, "sampler", None), getattr(loader, "batch_sampler", None)):
                one = getattr(holder, "generator", None)
                if isinstance(one, torch.Generator):
                    found[id(one)] = one
        return list(found.values())

    def _own(self) -> list[torch.Tensor]:
        return [one.get_state() for one in self._own_generators()]

    def _put_own(self, states: list[torch.Tensor]) -> None:
        for one, state in zip(self._own_generators(), states, strict=False):
            one.set_state(state)

    def _set_epoch(self, epoch: int) -> None:
        # Lightning tells a DistributedSampler its epoch only after the first epoch's iterator was made.
        for loader in self.flattened:
            for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
                if callable(getattr(sampler, "set_epoch", None)):
                    sampler.set_epoch(epoch)  # type: ignore[union-attr]


def promise(loader: Any, ranks: int) -> str:
    """What a training loader lets us promise of a resume; '' where it is exact in all respects."""
    if callable(getattr(loader, "load_state_dict", None)):
        several = ", and only that of rank 0 is kept" if ranks > 1 else ""
        return f"as exact as the loader's own state is{several}"
    workers = getattr(loader, "num_workers", 0) or 0
    if getattr(loader, "persistent_workers", False) and workers:
        return "the same order; random augmentation differs after it, because persistent workers keep their generators"
    if not isinstance(loader, torch.utils.data.DataLoader):
        return "exact if the loader draws from Python's, NumPy's or PyTorch's generators only"
    return ""


def installed(session: "Session", watch: "Watch") -> dict[str, Any]:
    """What `fit` is given, after the training loader was put into one that can be taken up."""
    if session.loaders is not None:
        train = Resumable(session.loaders.train, "max_size_cycle", watch)
        return {"train_dataloaders": train, "val_dataloaders": session.loaders.val}
    source: Any = session.module
    if session.datamodule is not None:
        overridden = type(session.datamodule).train_dataloader is not LightningDataModule.train_dataloader
        source = session.datamodule if overridden else source
    original = source.train_dataloader

    @functools.wraps(original)
    def train_dataloader() -> Resumable:
        found = original()
        if isinstance(found, CombinedLoader):
            return Resumable(found.iterables, found._mode, watch)
        return Resumable(found, "max_size_cycle", watch)

    source.train_dataloader = train_dataloader
    return {"datamodule": session.datamodule} if session.datamodule is not None else {}
