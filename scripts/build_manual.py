"""Hooks of MkDocs: add the generated pages, and put measured figures into the others.

mkdocs build --strict
"""

from manual import api, figures, notebook, public_names, settings
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def make_pages() -> dict[str, str]:
    """Return the content of every generated page by its path relative to docs/."""
    return {
        "results.md": figures.make_page(),
        "tutorial.md": notebook.make_page(),
        "reference/api/ldm_train.md": public_names.make_page(),
        **dict(settings.make_pages()),
        **dict(api.make_pages()),
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the generated pages of the reference to the navigation."""
    assert config.nav is not None
    reference = [
        {"Commands": [{name: f"reference/commands/{name}.md"} for name in settings.list_commands()]},
        {"Groups of options": [{name: f"reference/groups/{name}.md"} for name in settings.list_groups()]},
        {"Python API": [{name: f"reference/api/{name}.md"} for name in ("ldm_train", *api.ROOMS)]},
    ]
    [entry] = [entry["Reference"] for entry in config.nav if "Reference" in entry]
    entry.extend(reference)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, content in make_pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put measured figures into a page that was written by hand."""
    return markdown if page.file.generated_by else figures.fill_figures(markdown)
