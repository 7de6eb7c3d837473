"""A task whose rows have a vector each: what a learner without labels leaves behind."""

from typing import Literal

from instar import plugins
from instar.settings import Settings as Base

_of = plugins.load("tasks", "classification")
needs, METRIC, MODE = _of.needs, _of.METRIC, _of.MODE
summary, measure, scores, sections = _of.summary, _of.measure, _of.scores, _of.sections


class Settings(Base):
    """A vector an image."""

    kind: Literal["tests.fakes.embedder"] = "tests.fakes.embedder"
    """A vector an image."""


def learner(settings, encoder, plan):
    from instar.networks import Learner

    classifier = _of.learner(_of.Settings(), encoder, plan)

    class Embedder(Learner):
        def __init__(self):
            self.module, self.counts = classifier.module, classifier.counts

        losses, predict, summary = (
            staticmethod(one) for one in (classifier.losses, classifier.predict, classifier.summary)
        )

        embed = staticmethod(classifier.embed)

    return Embedder()
