"""Two ranks embed every row once, and write what one rank alone writes."""

import numpy as np

from instar import embed, embeddings
from instar.embed import Look
from instar.machine import Machine
from tests.fakes.training import train

HERE = Machine(workers=0, device="cpu", devices=1)
LOOK = Look(split="all", projection="pca")


def _on_a_rank(world, run):
    return embed.embed(run, LOOK, machine=HERE, world=world).get("points", 0)


def test_two_ranks_write_what_one_writes(tmp_path, together):
    run = train(tmp_path, train__epochs=1).run
    embed.embed(run, LOOK, machine=HERE)
    alone = embeddings.read(run.embeddings("all"))
    page = run.map_page("all").read_text(encoding="utf-8")
    assert together(2, _on_a_rank, run) == [len(alone), 0]
    found = embeddings.read(run.embeddings("all"))
    assert found.ids == alone.ids and len(set(found.ids)) == len(found)
    np.testing.assert_allclose(found.feature["image"], alone.feature["image"], atol=1e-6)
    assert run.map_page("all").read_text(encoding="utf-8").count("data:image/png") == page.count("data:image/png")
