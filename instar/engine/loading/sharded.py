"""Sharded: an order in which each node, or each rank, sees a part of the rows only, so that it need hold no more.

The rows of a training set are cut into as many blocks as there are holders, one behind the other. A holder's turns walk
through its own rows, pass after pass, each pass in a permutation of its own; whose turn it is follows from the position
alone. So any position is found in constant time here too. With `oversampling` a holder has that many blocks, its own
and the next ones, and each row is with so many holders: more room for more mixture.

Unlike the global order it depends on how many holders there are. Legend: N positions, R ranks, G holders.
"""

from collections.abc import Sequence

import numpy as np

from instar.engine.loading.order import Draw, permute


class Sharded:
    """The order of rows that are divided among holders.

    row_T       the training rows, ascending
    holder_R    the number of the holder that each rank belongs to, from 0
    batch       rows of one step over all ranks; a rank has those from batch*rank//R to batch*(rank+1)//R
    """

    def __init__(self, row_T: np.ndarray, holder_R: Sequence[int], *, batch: int, seed: int, oversampling: int = 1):
        holders = max(holder_R) + 1
        if len(row_T) < holders:
            raise ValueError(f"{len(row_T)} rows cannot be divided among {holders}")
        self.epoch_samples = len(row_T)
        self.holders = holders
        self.seed = seed
        self._row_T = row_T
        self._batch = batch
        self._bounds_G = np.arange(holders + 1) * len(row_T) // holders
        self._held = min(oversampling, holders)
        slots = np.arange(batch)
        ends_R = np.arange(1, len(holder_R) + 1) * batch // len(holder_R)
        self._holder_B = np.asarray(holder_R)[np.searchsorted(ends_R, slots, side="right")]
        self._turns_G = np.bincount(self._holder_B, minlength=holders)
        self._turn_B = np.array([int((self._holder_B[:slot] == self._holder_B[slot]).sum()) for slot in slots])

    def draw(self, position_N: np.ndarray) -> Draw:
        """The rows at global positions. An epoch is one pass of the holder, and a repeat is its number."""
        step_N, slot_N = np.divmod(np.asarray(position_N, np.int64), self._batch)
        holder_N = self._holder_B[slot_N]
        row_N, pass_N = np.empty_like(slot_N), np.empty_like(slot_N)
        for holder in np.unique(holder_N).tolist():
            here = holder_N == holder
            mine = self.rows_of(holder)
            turn_M = step_N[here] * self._turns_G[holder] + self._turn_B[slot_N[here]]
            pass_N[here], within_M = np.divmod(turn_M, len(mine))
            for number in np.unique(pass_N[here]).tolist():
                now = pass_N[here] == number
                shuffled = permute(within_M[now], len(mine), key=(self.seed, 4, holder, number))
                row_N[np.flatnonzero(here)[now]] = mine[shuffled]
        return Draw(row_N, pass_N, holder_N)

    def rows_of(self, holder: int) -> np.ndarray:
        """The training rows that a holder has."""
        blocks = [(holder + more) % self.holders for more in range(self._held)]
        return np.concatenate([self._row_T[self._bounds_G[block] : self._bounds_G[block + 1]] for block in blocks])

    def companions(self, row: int) -> np.ndarray:
        """Rows that whoever holds this one has too: those of its block."""
        place = int(np.searchsorted(self._row_T, row))
        block = int(np.searchsorted(self._bounds_G, place, side="right")) - 1
        return self._row_T[self._bounds_G[block] : self._bounds_G[block + 1]]

    def anyone(self, row: int, share: float) -> int:
        """Another row to take the place of this one: `share` of the way through those that are held beside it."""
        beside = self.companions(row)
        return int(beside[int(share * len(beside))])
