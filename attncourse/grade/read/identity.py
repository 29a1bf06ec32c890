"""Whose a submission is: told by where it lay among the others, never by what it says of itself.

A name that Canvas or Moodle made counts as theirs only where every name beside it is theirs too, and a folder counts
before the file in it: what a learner may choose decides nothing. Where a name can be read in more than one way a
roster decides; what it cannot decide is nobody's, with a note that says why.

The forms are those of instructure/canvas-lms lib/content_zipper.rb, moodle/moodle mod/assign/classes/downloader.php,
nbgrader's `submitted/<student>/<assignment>/<notebook>` and GitHub Classroom's `<assignment>-<user>/`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from .roster import Roster, login_keys, name_keys
from .table import folded

# lastfirst_LATE_4711_81234_name.ipynb, of a group groupname_4711_..., without a file lastfirst_4711_text.html
CANVAS = re.compile(r"(?P<name>.+?)(?P<late>_LATE)?_(?P<id>\d+)_(?:(?P<upload>\d+)_(?P<rest>.+)|(?:text|link)\.html)")
CANVAS_ANONYMOUS = re.compile(r"(?:LATE_)?(?P<name>anon_[^\W_]+)_(?:\d+_.+|(?:text|link)\.html)")
# First Last_1234567_assignsubmission_file_/name.ipynb, or in one folder ..._assignsubmission_file_name.ipynb
MOODLE = re.compile(r"(?P<name>[^/]+?)(?:_(?P<id>\d+))?_assignsubmission_[a-z]+(?:_.*)?")
# what browsers, Jupyter, Colab and file managers add to the name of a copy
COPY_BEFORE = re.compile(r"^(?:\s*(?:copy of|kopie von|copie de|c[oó]pia de)\b)+", re.IGNORECASE)
COPY_BEHIND = re.compile(r"(?:[-_ ]*\(\d+\)|[-_ ]+copy[-_ ]*\d*)+\s*$", re.IGNORECASE)

WITHIN = 1_000  # the level of a file's own name, which lies deeper than any folder
COLLECTED = ("submitted", "submissions")  # folders that a class's work is collected in
HANDED_OUT = ("exercises", "handout")  # folders that a learner unpacks from what was handed out
NOTEBOOK = ".ipynb"
PACKED = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")


@dataclass(frozen=True)
class Identity:
    """An identity says whose a submission is:
    a name, and the numbers by which Canvas or Moodle know the learner, if they say.

    `note` says why it could not be told, where it could not; the name is then that of the file, and fits nobody.
    """

    name: str
    canvas_id: str = ""
    moodle_id: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def identify(file: str, units: Iterable[str]) -> Identity:
    """Return whose one file is, where nothing is known of those beside it.

    Of a plain folder's `ada/softmax_attention.ipynb`, `ada.ipynb` and `ada-softmax_attention.ipynb` the learner is ada.
    """
    return Collection({file: tuple(file.split("/"))}, units).identities[file]


@dataclass(frozen=True)
class _Place:
    """A place is one file: the folders around it, its name, and what of both may name a learner.

    `own` is what the file's name says beside the unit, `parts` are the folders but for those that were handed out.
    """

    folders: tuple[str, ...]
    file: str
    parts: tuple[str, ...]
    own: str

    unit: str

    @property
    def stem(self) -> str:
        return without_ending(self.file)

    @property
    def top(self) -> str:
        """Return the folder or file that stands beside those of others."""
        return (*self.folders, self.file)[0]

    @property
    def votes(self) -> bool:
        """Return whether it is handed in as a notebook, so that its name says what names look like here."""
        return meant_as_notebook(self.file)


class Collection:
    """A collection is all files that were handed in together, and whose each of them is.

    Args:
        paths: of each file, by its label, the folders and the name.
        units: that were handed out.
        roster: the class.
        root: what the folder or zip is called that holds them.
    """

    def __init__(
        self,
        paths: Mapping[str, tuple[str, ...]],
        units: Iterable[str],
        *,
        roster: Roster | None = None,
        root: str = "",
    ):
        named = "|".join(map(re.escape, sorted(units, key=len, reverse=True)))
        self._a_unit = re.compile(rf"(?<![^\W_])(?:{named})(?![^\W\d_])" if named else "(?!)")
        self._roster, self._root = roster, root
        self._places = self._unwrapped({label: _normal(path) for label, path in paths.items()})

    @cached_property
    def identities(self) -> dict[str, Identity]:
        """Return whose each file is, by its label."""
        voters = _voters(self._places)
        at_top = [place.top for place in voters if not place.folders]
        folders = {place.top for place in voters if place.folders}
        of_file, of_folder = _platform(at_top, (CANVAS_ANONYMOUS, MOODLE, CANVAS)), _platform(folders, (MOODLE,))
        found, plain = {}, {}
        for label, place in self._places.items():
            form = of_folder if place.folders else of_file
            if form is None or not form.fullmatch(place.top):
                plain[label] = place
            else:
                found[label] = self._of_moodle(place.top) if form is MOODLE else self._of_canvas(form, place)
        return found | self._of_plain(plain)

    @cached_property
    def notes(self) -> list[str]:
        """Return which name at the top is no platform's where most are: none is then taken for the platform's."""
        tops = {place.top for place in _voters(self._places)}
        for platform, form in (("Canvas", CANVAS), ("Moodle", MOODLE)):
            others = sorted(name for name in tops if not form.fullmatch(name))
            if others and 2 * len(others) < len(tops):
                return [
                    f"{len(tops) - len(others)} of {len(tops)} names are such as {platform} gives, but not {others[0]}: "
                    f"if all are of {platform}, take it out and mark again"
                ]
        return []

    # the forms of platforms

    def _of_canvas(self, form: re.Pattern, place: _Place) -> Identity:
        if form is CANVAS_ANONYMOUS:
            return Identity(form.fullmatch(place.file)["name"])
        readings = canvas_readings(place.file)
        if len(readings) == 1:
            return readings[0]
        either = " or ".join(f"{one.name} (id {one.canvas_id})" for one in readings)
        unclear = Identity(place.stem, note=f"the name says {either}")
        if self._roster is None:
            return replace(unclear, note=f"{unclear.note}; --roster would tell")
        rows = {one: self._ids("Canvas", one.canvas_id) for one in readings}
        known = [one for one in readings if rows[one]]
        named = [one for one in known if rows[one] & self._roster.fits(name_keys(one.name))]
        # a person's name stands in the roster beside the id; a group's does not, and it is a group's that ends in a number
        grouped = [one for one in known if one is readings[1]] if len(known) == 1 else []
        return (named or grouped)[0] if len(named or grouped) == 1 else unclear

    def _of_moodle(self, name: str) -> Identity:
        match = MOODLE.fullmatch(name)
        identity = Identity(match["name"].replace("_", " "), moodle_id=match["id"] or "")
        words = {word for row in self._ids("Moodle", identity.moodle_id) for word in self._roster.words(row)}
        if words and not words & set(folded(identity.name).split()):
            # groups are numbered apart from participants, so that two numbers may be equal
            note = f"participant {identity.moodle_id} of the roster has another name; is it a group's?"
            return Identity(identity.name, note=note)
        return identity

    def _ids(self, platform: str, number: str) -> set[int]:
        """Return the rows of a number in a platform's own roster."""
        return self._roster.fits({("id", number)}) if self._roster and self._roster.platform == platform else set()

    # plain folders, nbgrader's and GitHub Classroom's

    def _of_plain(self, places: dict[str, _Place]) -> dict[str, Identity]:
        depth = self._depth(places)
        names = {label: self._plain_name(label, place, depth) for label, place in places.items()}
        if self._roster is None or not places:
            return {label: Identity(name) for label, name in names.items()}
        texts = {label: self._texts(place) for label, place in places.items()}
        known = {
            (level, places[label].top) for label, each in texts.items() for level, text in each if self._rows(text)
        }
        # counted once for each folder at the top, so that nobody tips the scales by many files
        levels = Counter(level for level, _ in known)
        # the outermost place at which most of the class is known; what lies further in is the learner's to choose
        level = max(levels, key=lambda x: (levels[x], -x), default=0)
        for label, place in places.items():
            if level < len(place.folders):
                names[label] = "/".join(place.folders[: level + 1])
        return {label: self._known(texts[label], names[label], level) for label in places}

    def _texts(self, place: _Place) -> list[tuple[int, str]]:
        """Return (level, text) of what may name the learner, from the outermost folder on."""
        if self._collected(place):
            return [(0, place.folders[0])]
        within = [(WITHIN, place.own), (WITHIN, place.stem)]
        return [(level, text) for level, text in [*enumerate(place.folders), *within] if text]

    def _known(self, texts: list[tuple[int, str]], name: str, level: int) -> Identity:
        """Return the learner of the roster whom the first text names that names one."""
        in_no_folder = all(at == WITHIN for at, _ in texts)
        for at, text in texts:
            rows = self._rows(text) if at <= level or in_no_folder else []
            if len({row for _, row in rows}) > 1:
                return Identity(name, note=f"more than one row of the roster fits {text}")
            if rows:
                return Identity(min((reading for reading, _ in rows), key=len))
        return Identity(name)

    def _rows(self, text: str) -> list[tuple[str, int]]:
        """Return (a way to read the text, a row of the roster that it fits) of each that there is."""
        readings = dict.fromkeys((text, self._own(text), *self._users(text)))
        return [(one, row) for one in readings for row in self._roster.fits(login_keys(one) | name_keys(one))]

    def _users(self, folder: str) -> list[str]:
        """Return what a folder may call a user, where all folders are repositories `<assignment>-<user>`."""
        if self._slug:
            return [folder.removeprefix(self._slug)]
        prefix = self._shared_prefix
        ends = [at + 1 for at, letter in enumerate(prefix) if letter == "-"] if folder.startswith(prefix) else []
        return [folder[end:] for end in ends if folder[end:]]

    @cached_property
    def _shared_prefix(self) -> str:
        folders = sorted({place.folders[0] for place in self._places.values() if place.folders})
        if len(folders) < 2:
            return ""
        first, last = folders[0], folders[-1]
        same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        return first[: first.rfind("-", 0, same) + 1]

    def _plain_name(self, label: str, place: _Place, depth: int) -> str:
        parts = [part.removeprefix(self._slug) if self._slug and i == 0 else part for i, part in enumerate(place.parts)]
        if self._collected(place):
            return place.folders[0]
        if depth and len(parts) >= depth:
            return "/".join(parts[:depth])
        named = [*parts, place.own] if place.own else parts
        return "/".join(named) or "/".join([*place.folders, place.stem]) or label

    def _depth(self, places: dict[str, _Place]) -> int:
        """Return how many folders deep a learner's own folder lies; 0 where folders are not known to be learners'.

        They are where most notebooks in folders have no name beside their unit's, so that the folder must tell, or
        where there are several folders and none has two notebooks for one unit.
        """
        inside = [place for place in _voters(places) if place.parts]
        unnamed = {place.top: len(place.parts) for place in inside if not place.own}
        once = Counter((place.folders, place.unit) for place in inside if place.own)
        tops = {place.top for place in inside}
        alone = len({place.parts for place in inside}) > 1 and max(once.values(), default=1) == 1
        if not alone and 2 * len(unnamed) < len(tops):
            return 0
        depths = Counter(unnamed.values() if unnamed else (len(place.parts) for place in inside))
        return max(depths, key=lambda deep: (depths[deep], deep), default=0)

    def _collected(self, place: _Place) -> bool:
        """Return whether a file lies in nbgrader's layout, in which the first folder is the learner's."""
        return self._root == "submitted" and bool(place.folders)

    # folders that name nobody

    def _unwrapped(self, paths: dict[str, tuple[str, ...]]) -> dict[str, _Place]:
        """Return every file without the folders that hold all of a class."""
        self._slug = _slug(self._root)
        while True:
            voting = [path for path in paths.values() if meant_as_notebook(path[-1])] or list(paths.values())
            tops = {path[0] if len(path) > 1 else "" for path in voting}
            top = tops.pop() if len(tops) == 1 else ""
            inner = {label: path[1:] if path[0] == top and path[1:] else path for label, path in paths.items()}
            if not top or not (top.casefold() in COLLECTED or self._tells_apart(self._at(inner), top)):
                return self._without_shared_parts(self._at(paths))
            self._root, self._slug, paths = top, self._slug or _slug(top), inner

    def _at(self, paths: dict[str, tuple[str, ...]]) -> dict[str, _Place]:
        return {label: self._place(path) for label, path in paths.items()}

    def _tells_apart(self, places: dict[str, _Place], wrapper: str) -> bool:
        """Return whether the files still have names of their own without the folder around all of them."""
        if self._roster is not None and self._roster.fits(login_keys(wrapper) | name_keys(wrapper)):
            return False
        names = {(place.parts[:1] or (place.own,))[0] for place in _voters(places)}
        return len(names) > 1 and "" not in names

    def _without_shared_parts(self, places: dict[str, _Place]) -> dict[str, _Place]:
        """Return the files without the folders that every learner has, as an assignment's within each learner's."""
        voters = _voters(places)
        inside = [set(place.parts) for place in voters if place.parts]
        # a folder beside a class of files is not one that every learner has
        shared = set.intersection(*inside) if 2 * len(inside) > len(voters) else set()
        kept = {
            label: replace(place, parts=tuple(part for part in place.parts if part not in shared))
            for label, place in places.items()
        }
        return kept if shared and self._tells_apart(kept, "") else places

    def _place(self, path: tuple[str, ...]) -> _Place:
        *folders, file = path
        if len(folders) > 1 and folders[0].casefold() in COLLECTED:
            folders = folders[1:]
        parts = [self._own(folder) for folder in folders if folder.casefold() not in HANDED_OUT]
        stem = without_ending(file)
        unit = self._unit(stem)
        return _Place(tuple(folders), file, tuple(part for part in parts if part), self._own(stem), unit)

    def _unit(self, text: str) -> str:
        """Return the unit that a name names, which stands in it as a word."""
        match = self._a_unit.search(text)
        return match[0] if match else ""

    def _own(self, text: str) -> str:
        """Return what a name says beside the unit's."""
        match = self._a_unit.search(text)
        if match is None:
            return " ".join(text.split())
        before, behind = COPY_BEFORE.sub("", text[: match.start()]), COPY_BEHIND.sub("", text[match.end() :])
        return " ".join(f"{before} {behind}".split()).strip("-_. ")


def _voters(places: Mapping[str, _Place]) -> list[_Place]:
    return [place for place in places.values() if place.votes] or list(places.values())


def meant_as_notebook(file: str) -> bool:
    """Return whether a file's name says that it is a notebook, or what a notebook was packed into."""
    return NOTEBOOK in file.lower() or file.lower().endswith(PACKED)


def canvas_readings(file: str) -> list[Identity]:
    """Return the ways to read a name that Canvas made;
    two where the file or the learner's name may be what holds a number.

    `group_1_4713_81236_x.ipynb` is of `group`, id 1, or of `group_1`, id 4713. Canvas takes `_1_` out of names, so that
    in one only the end can be a number.
    """
    match = CANVAS.fullmatch(file)
    readings = [Identity(match["name"], canvas_id=match["id"])]
    if not match["late"] and re.match(r"\d+_.", match["rest"] or ""):
        readings.append(Identity(f"{match['name']}_{match['id']}", canvas_id=match["upload"]))
    return readings


def _platform(names: Iterable[str], forms: tuple[re.Pattern, ...]) -> re.Pattern | None:
    """Return the form that all names have; none where one has another, or where there is no name."""
    names = list(names)
    fitting = [form for form in forms if names and all(form.fullmatch(name) for name in names)]
    # Moodle writes no _ into a name, so that what has one before its number is rather another's
    strict = [
        form for form in fitting if form is not MOODLE or all("_" not in MOODLE.fullmatch(n)["name"] for n in names)
    ]
    return next(iter(strict or fitting), None)


def _slug(folder: str) -> str:
    """Return `<assignment>-` of the folder `<assignment>-submissions` into which GitHub Classroom clones."""
    return folder.removesuffix("submissions") if folder.endswith("-submissions") else ""


def _normal(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", part) for part in path)


def without_ending(file: str) -> str:
    """Return a file's name up to its ending; `x.ipynb.json` and `x.IPYNB` are x, too."""
    at = file.lower().find(NOTEBOOK)
    return file[:at] if at > 0 else re.sub(r"(?<=.)\.\w{1,8}$", "", file)
