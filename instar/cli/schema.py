"""Print the JSON schema of a recipe, for completion in editors

    instar schema > recipe.schema.json

and in the recipe's first line:

    # yaml-language-server: $schema=recipe.schema.json
"""

import json

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE

FLAGS = ()
THINGS = (0, 0)


def run(words: Words) -> int:
    from instar import experiment

    terminal.say(json.dumps(experiment.schema(), indent=2, ensure_ascii=False))
    return DONE
