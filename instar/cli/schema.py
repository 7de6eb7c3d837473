"""Print the JSON schema of a recipe, for completion in editors

    instar schema > recipe.schema.json

and in the recipe's first line:

    # yaml-language-server: $schema=recipe.schema.json

instar schema lightning_module      the same of the recipe of a LightningModule of your own
"""

import json

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE

FLAGS = ()
THINGS = (0, 1)


def run(words: Words) -> int:
    from instar import brought, experiment
    from instar.cli.words import one_of

    own = bool(words.things) and one_of("schema", words.things[0], (experiment.OWN,)) == experiment.OWN
    found = experiment.schema(brought.Brought if own else experiment.Experiment)
    terminal.say(json.dumps(found, indent=2, ensure_ascii=False))
    return DONE
