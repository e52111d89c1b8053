"""What a release says of itself: one version, the same addresses, links that lead somewhere."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

import jaxprune
import newcomers

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
PUBLISH = runpy.run_path(str(ROOT / "docs" / "versions.py"))["publish"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_one_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.search(r"^## \[(\d.*)\] - (\S+)$", changelog, re.MULTILINE).groups()
    assert {jaxprune.__version__, PROJECT["version"], CITATION["version"], version} == {version}
    assert CITATION["date-released"] == date


def test_the_same_addresses() -> None:
    urls = PROJECT["urls"]
    assert CITATION["repository-code"] == urls["Repository"]
    assert CITATION["url"] == urls["Documentation"]
    for path in (ROOT / ".github").rglob("*.yml"):
        text = path.read_text(encoding="utf-8")
        for url in re.findall(
            r"https://[^\s\"]*jaxprune/jaxprune|https://jaxprune\S+?/jaxprune", text
        ):
            assert url in {urls["Repository"], urls["Documentation"]}, path


@pytest.mark.parametrize("name", ["ci", "docs", "release"])
def test_workflows_run_files_that_are_there(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    for step in (step for job in jobs.values() for step in job["steps"]):
        assert ("uses" in step) != ("run" in step)
        assert re.search(r"@(v\d+|release/v\d+)$", step.get("uses", "@v1"))
    for path in re.findall(r"(?:python|bash) ((?:docs|\.ci)/\S+)", text):
        assert (ROOT / path).is_file()


def test_ci_runs_every_python_that_the_package_names() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    matrix = yaml.safe_load(workflow)["jobs"]["check"]["strategy"]["matrix"]
    named = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert matrix["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_links_of_the_readme_lead_to_files_that_are_there() -> None:
    local = [link for link in LINK.findall(README) if not link.startswith(("https:", "#"))]
    assert local
    assert [link for link in local if not (ROOT / link.partition("#")[0]).exists()] == []


def test_the_readme_names_extras_that_there_are() -> None:
    named = {extra for group in re.findall(r"\.\[([\w,]+)\]", README) for extra in group.split(",")}
    assert named
    assert named <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("page", newcomers.PAGES)
def test_the_pages_for_newcomers_are_programs(page: str) -> None:
    text = (newcomers.HOWTO / f"{page}.md").read_text(encoding="utf-8")
    programs = newcomers.programs(text)
    assert len(programs) == 1 + text.count("new-process")
    for program in programs:
        compile(program, page, "exec")
        assert program.count("import jaxprune as jp") == 1


def test_a_second_process_has_the_definitions_of_the_first_and_nothing_that_it_made() -> None:
    first = "import math\n\nmade = print('ran')\n\n\ndef twice(x):\n    return 2 * x\n"
    second = "found = twice(math.pi)\n"
    page = f"```{{code-cell}}\n{first}```\n\n```{{code-cell}}\n:tags: [new-process]\n{second}```\n"
    both = newcomers.programs(page)
    names: dict[str, object] = {}
    exec(both[1], names)
    assert names["found"] == pytest.approx(6.28, abs=0.01)
    assert "made" not in names
    assert both[0].strip() == first.strip()


def test_a_site_stands_beside_those_of_other_versions(tmp_path: Path) -> None:
    html, pages = tmp_path / "html", tmp_path / "pages"
    html.mkdir()
    pages.mkdir()
    for version in ("main", "0.9.0", "0.10.0", "main"):
        (html / "index.html").write_text(version)
        PUBLISH(html, pages, version)
        assert (pages / version / "index.html").read_text() == version
    assert (pages / "stable" / "index.html").read_text() == "0.10.0"
    index = (pages / "index.html").read_text()
    assert "url=stable/" in index
    assert re.findall(r'href="([^"]+)/"', index) == ["stable", "main", "0.10.0", "0.9.0"]


def test_before_the_first_release_the_branch_comes_first(tmp_path: Path) -> None:
    (tmp_path / "html").mkdir()
    (tmp_path / "pages").mkdir()
    PUBLISH(tmp_path / "html", tmp_path / "pages", "main")
    assert "url=main/" in (tmp_path / "pages" / "index.html").read_text()
    assert not (tmp_path / "pages" / "stable").exists()
