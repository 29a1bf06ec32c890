"""What strangers meet first: workflows, forms, citation, changelog, containers, hooks and the links of the pages at the root."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

import attncourse

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCHEMAS = {
    "github-workflows": WORKFLOWS,
    "github-issue-forms": sorted(p for p in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config"),
    "github-issue-config": [ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"],
    "dependabot": [ROOT / ".github" / "dependabot.yml"],
    "citation-file-format": [ROOT / "CITATION.cff"],
}
TARGETS = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
TARGETS |= {".venv/.installed"}


def breaks_schema(schema: str, *paths: Path) -> str:
    """What the schema that comes with check-jsonschema says against the files, asked without a network."""
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", f"vendor.{schema}", *map(str, paths)])
    return done.output if done.exit_code else ""


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_that_github_reads_keep_their_schema(schema):
    assert SCHEMAS[schema]
    assert not breaks_schema(schema, *SCHEMAS[schema])


# Workflows: what a schema does not see


def faults(text: str) -> list[str]:
    """What is wrong with a workflow that keeps its schema."""
    workflow = yaml.safe_load(text)
    found = [] if workflow.get("permissions") == {"contents": "read"} else ["permissions: a workflow reads, a job asks"]
    found += [
        f"{line.strip()}: pin a commit, name its tag" for line in re.findall(r".*uses:.*", text) if not pinned(line)
    ]
    jobs = workflow["jobs"]
    for name, job in jobs.items():
        needs = job.get("needs", [])
        found += [f"{name}: needs no job {n}" for n in ([needs] if isinstance(needs, str) else needs) if n not in jobs]
        found += [] if "timeout-minutes" in job else [f"{name}: no timeout-minutes"]
        found += [f"{name}: {fault}" for step in job["steps"] for fault in faults_of_run(step.get("run", ""))]
        found += [f"{name}: {what}" for what in unknown(job)]
    return found


def pinned(line: str) -> bool:
    return bool(re.fullmatch(r"\s*(- )?uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line))


def faults_of_run(script: str) -> list[str]:
    """A script that bash cannot read, that has words of the event pasted in, or that asks make for what it has not."""
    read = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    found = [] if read.returncode == 0 else [read.stderr.strip()]
    found += ["an expression in a script: pass it through env"] if "${{" in script else []
    goals = [word for line in re.findall(r"\bmake (.*)", script) for word in shlex.split(line) if "=" not in word]
    return found + [f"make has no target {goal}" for goal in goals if goal not in TARGETS]


def unknown(job: dict) -> list[str]:
    """Expressions that ask for what nobody sets."""
    known = {f"matrix.{axis}" for axis in job.get("strategy", {}).get("matrix", {})}
    known |= {f"steps.{step['id']}.outputs" for step in job["steps"] if "id" in step}
    known |= {"github.ref", "vars.PIP_EXTRA_INDEX_URL"}
    asked = re.findall(r"\$\{\{\s*(.*?)\s*\}\}", json.dumps(job))
    return [f"{asks} is set nowhere" for asks in asked if asks not in known and asks.rpartition(".")[0] not in known]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_asks_for_what_is_there_and_for_no_more(path):
    assert faults(path.read_text(encoding="utf-8")) == []


def test_there_are_workflows_for_tests_book_and_newest_versions():
    assert {path.stem for path in WORKFLOWS} >= {"tests", "book", "newest"}


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("    runs-on: ubuntu-24.04", "    run-on: ubuntu-24.04", "run-on"),
        ("pull_request:", "pull_requests:", "pull_requests"),
        ("contents: read", "contents: reed", "reed"),
        ("make test", "make tests", "make has no target tests"),
        ("make test", "if make test; then", "syntax error"),
        ("make test", "echo ${{ github.head_ref }}", "pass it through env"),
        ("{{ matrix.python }}", "{{ matrix.pyhton }}", "matrix.pyhton is set nowhere"),
        ("    timeout-minutes: 120", "    needs: lint\n    timeout-minutes: 120", "needs no job lint"),
        ("    timeout-minutes: 120\n", "", "no timeout-minutes"),
        ("contents: read", "contents: write", "a workflow reads"),
        ("@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0", "@v5", "pin a commit"),
    ],
)
def test_a_broken_workflow_is_told(tmp_path, was, becomes, says):
    whole = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    broken = tmp_path / "tests.yml"
    broken.write_text(whole.replace(was, becomes), encoding="utf-8")
    assert broken.read_text(encoding="utf-8") != whole
    assert says in (breaks_schema("github-workflows", broken) or "\n".join(faults(broken.read_text(encoding="utf-8"))))


def test_a_citation_without_a_title_is_told(tmp_path):
    whole = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    broken = tmp_path / "CITATION.cff"
    broken.write_text(re.sub(r"^title:.*\n", "", whole, flags=re.MULTILINE), encoding="utf-8")
    assert "title" in breaks_schema("citation-file-format", broken)


# One version, one address


def test_citation_and_changelog_are_of_this_version_and_origin():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == attncourse.__version__
    origin = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["attncourse"]
    assert citation["url"] == citation["repository-code"] == origin["repository"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.*)\]", changelog, flags=re.MULTILINE)
    assert sections[:2] == ["Unreleased", attncourse.__version__]
    assert all(re.search(rf"^\[{re.escape(name)}\]: https://", changelog, flags=re.MULTILINE) for name in sections)


# Containers and hooks


def test_containers_install_as_make_does_and_name_no_registry():
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    binder = (ROOT / "binder" / "postBuild").read_text(encoding="utf-8")
    for says in (dockerfile, container["postCreateCommand"], binder):
        assert "make .venv/.installed" in says, "make installs torch first, by its exact pin"
        assert "pip install" not in says
    stages = dict(reversed(m) for m in re.findall(r"^FROM (\S+) AS (\S+)", dockerfile, flags=re.MULTILINE))
    assert container["build"]["target"] in stages
    assert not [image for image in stages.values() if "/" in image], "an image with a host"
    assert {".git", ".venv", "_build"} <= set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    assert (ROOT / "binder" / "postBuild").stat().st_mode & 0o100


def test_hooks_and_make_format_strip_notebooks_alike():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"lint", "format", "notebooks", "bootstrap"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (options,) = re.findall(r"nbstripout (.*?) book/", makefile)
    (notebooks,) = (hook["entry"] for hook in hooks if hook["id"] == "notebooks")
    assert re.findall(r'nbstripout (.*?) "\$@"', notebooks) == [options]


# Links


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda p: p.name)
def test_relative_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    here = [link.partition("#")[0] for link in links if not re.match(r"https?://|#|\.\./\.\./security/", link)]
    assert [link for link in here if not (ROOT / link).exists()] == []
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
