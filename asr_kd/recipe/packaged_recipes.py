"""Recipes that come with asr-kd: the folder `recipes/` of a checkout, or its copy inside an installed package."""

import difflib
import itertools
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import asr_kd
from asr_kd.errors import RecipeError

SUFFIX = ".yaml"
SUMMARY_WIDTH = 80

_CHECKOUT_PATH = re.compile(r"recipes/\w+/weights")


@dataclass(frozen=True)
class PackagedRecipe:
    """A recipe that comes with asr-kd."""

    name: str  # "AN4/an4"
    path: Path
    summary: str  # the first sentence of its header
    needs_checkout: bool  # refers to weights that are committed but not packaged


def recipes_folder() -> Path:
    """Return the folder of the recipes: inside the package where it is installed, else beside it."""
    package = Path(asr_kd.__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def packaged_recipes() -> list[PackagedRecipe]:
    """Return every recipe that comes with asr-kd, by name; grids of sweeps are not recipes."""
    folder = recipes_folder()
    return [_describe(path, folder) for path in sorted(folder.glob(f"*/*{SUFFIX}"))]


def is_recipe(given: Path) -> bool:
    """Whether a path is a recipe file by its suffix, or no path and the name of a packaged recipe."""
    if given.suffix in (SUFFIX, ".yml"):
        return True
    names = {name for recipe in packaged_recipes() for name in (recipe.name, recipe.name.split("/")[1])}
    return given.as_posix() in names and not given.exists()


def find_recipe(given: Path) -> Path:
    """Return a file that exists, or the packaged recipe of that name ("AN4/an4", or "synthetic" where it is unique).

    Raises:
        RecipeError: neither; the message lists similar names.
    """
    if given.exists() and not given.is_dir():
        return given
    known = {recipe.name: recipe.path for recipe in packaged_recipes()}
    name = given.as_posix().removesuffix(SUFFIX).removeprefix("recipes/")
    matches = [known[name]] if name in known else [path for key, path in known.items() if key.split("/")[1] == name]
    if len(matches) == 1:
        return matches[0]  # also where a folder has its name, such as that of a run
    if given.exists():
        return given  # a folder: reading it names what is wrong
    near = difflib.get_close_matches(name, [*known, *(key.split("/")[1] for key in known)], n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    several = [key for key, path in known.items() if path in matches]
    raise RecipeError(
        f"is the name of {len(several)} recipes: {', '.join(several)}" if several else "does not exist",
        where=given,
        expected="a recipe file, or the name of a recipe that comes with asr-kd",
        remedy=f"{hint}asr-kd recipe ls lists the names",
    )


def copy_recipe(name: str, target: Path | None) -> Path:
    """Copy a packaged recipe to `target` (a file or an existing folder; None: the working folder); return the copy.

    Raises:
        RecipeError: no such recipe, or the file exists or cannot be written.
    """
    source = find_recipe(Path(name))
    place = target or Path()
    copy = place / source.name if place.is_dir() else place
    if copy.suffix not in (SUFFIX, ".yml"):
        raise RecipeError("is not the name of a recipe", where=copy, expected=f"a folder that exists, or NAME{SUFFIX}")
    try:
        with copy.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise RecipeError(
            "exists already",
            where=copy,
            expected="a new file",
            remedy=f"Name another (asr-kd recipe cp {name} mine.yaml), or remove this one",
        ) from None
    except OSError as error:
        raise RecipeError(
            f"cannot be written ({error.strerror or error})", where=copy, expected="a folder that exists"
        ) from error
    return copy


def _describe(path: Path, folder: Path) -> PackagedRecipe:
    text = path.read_text(encoding="utf-8")
    prose = itertools.takewhile(lambda line: line.startswith("#") and line.strip("# "), text.splitlines())
    header = " ".join(line.strip("# ") for line in prose)
    summary = textwrap.shorten(
        re.split(r"(?<=[^.]{12}[.])\s", header)[0].removesuffix("."), SUMMARY_WIDTH, placeholder=" …"
    )
    name = path.relative_to(folder).with_suffix("").as_posix()
    return PackagedRecipe(name, path, summary, bool(_CHECKOUT_PATH.search(text)))
