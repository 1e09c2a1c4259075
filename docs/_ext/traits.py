"""What does a setting's own help say? The directive ``trait``, so that no page says it again.

    ```{trait} FirecRESTSpawner.port_range
    ```

becomes the setting's name, type, default and help text, read from its class.
"""

import inspect
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from firecrestspawner.authenticator import FirecRESTAuthenticator
from firecrestspawner.service import ServiceAccount
from firecrestspawner.spawner import FirecRESTSpawner

CLASSES = {
    each.__name__: each for each in (FirecRESTAuthenticator, FirecRESTSpawner, ServiceAccount)
}


def describe(name: str) -> str:
    """Markdown about the setting ``Class.trait``; KeyError when there is none of that name."""
    section, _, attribute = name.partition(".")
    trait = CLASSES[section].class_traits(config=True)[attribute]
    kind = trait.info().removeprefix("a ").removeprefix("an ")
    text = inspect.cleandoc(trait.help)
    return f"**c.{name}** : *{kind}*, by default `{_default(trait)}`\n\n{text}"


def _default(trait: Any) -> str:
    # One that is computed is named in the help text, as the environment variable it comes from.
    value = trait.default()
    return "''" if value in ("", None) else repr(value)


class Trait(SphinxDirective):
    """``{trait} Class.name``: one setting."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        try:
            text = describe(name)
        except KeyError:
            raise self.error(f"there is no setting {name!r}") from None
        entry = nodes.container(classes=["trait"], ids=[nodes.make_id(name)])
        self.state.nested_parse(StringList(text.splitlines(), source=name), 0, entry)
        return [entry]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("trait", Trait)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
