"""The distributions that a part needs."""

from __future__ import annotations

from typing import Any

from zc.buildout import easy_install


def find_working_set(buildout: Any, options: Any, requirements: list[str]) -> Any:
    """Return the working set for *requirements*; what is missing is installed first.

    Not by zc.recipe.egg, which does the same: ``recipe = zeolith`` is to do without further
    distributions.

    :param options: of the part, which may say where to look.
    :raises zc.buildout.UserError: a distribution cannot be found, or two do not fit together.
    """
    main = buildout["buildout"]
    paths = [main["develop-eggs-directory"], main["eggs-directory"]]
    if main.get("offline") == "true":
        found = easy_install.working_set(requirements, paths)
    else:
        found = easy_install.install(
            requirements,
            paths[1],
            links=options.get("find-links", main.get("find-links", "")).split(),
            index=options.get("index", main.get("index")),
            path=paths[:1],
            newest=main.get("newest") == "true",
            allow_hosts=tuple(main.get("allow-hosts", "*").split()),
            allow_unknown_extras=main.get("allow-unknown-extras") == "true",
        )
    # The buildout's own come first, before what is installed beside buildout.
    return easy_install.sort_working_set(found, paths[1], paths[0])
