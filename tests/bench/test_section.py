"""A section of a page is rewritten and the rest of it kept."""

from pathlib import Path

import pytest

from foveate.bench.page import write_section
from foveate.errors import InputError


def test_a_section_is_rewritten_and_the_rest_of_the_page_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n<!-- begin one -->\nold\nold\n<!-- end one -->\nB\n<!-- begin two -->\nC\n<!-- end two -->\n")
    write_section("one", "new | table", page)
    write_section("one", "newer | table", page)
    assert page.read_text() == (
        "# A\n<!-- begin one -->\nnewer | table\n<!-- end one -->\nB\n<!-- begin two -->\nC\n<!-- end two -->\n"
    )
    before = page.read_text()
    with pytest.raises(InputError, match="begin three"):
        write_section("three", "text", page)
    assert page.read_text() == before
