"""The table, the document and the page of the claims agree with the recorded runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from alexnet.cli import main
from alexnet.config import Architecture, FullyConnected
from alexnet.errors import RunError
from alexnet.experiments import document, drawings, measures, records, report, table
from alexnet.experiments.claims import CLAIMS, chosen
from alexnet.experiments.estimates import estimate, holm
from alexnet.experiments.pictures import pictures
from alexnet.experiments.record import Record, Row, where
from alexnet.figures import drawn_from
from alexnet.model import Network
from tests.claim_records import RECORDS, ROOT, raw


def test_document_agrees_with_the_records(recorded: list[Record]) -> None:
    drawn = pictures(recorded)
    text = document.text(recorded, drawn, "reproduction-figures")
    assert (ROOT / "docs" / "reproduction.md").read_text() == text
    folder = ROOT / "docs" / "reproduction-figures"
    assert {path.name for path in folder.iterdir()} == {one.file for one in drawn}
    for one in drawn:
        assert drawn_from(folder / one.file) == one.source, one.title
    assert all("effects" not in record.raw for record in recorded)


def test_a_changed_run_changes_its_row_and_the_document(recorded: list[Record]) -> None:
    changed = raw("columns-tiny-imagenet-desk")
    before = records.opened(changed).rows[0].estimate.mean
    changed["arms"]["one column"][0]["test_error"] += 0.03
    after = records.opened(changed)
    assert after.rows[0].estimate.mean == pytest.approx(before + 1)
    others = [after if record.claim.id == "columns" else record for record in recorded]
    assert document.text(records.adjusted(others)) != document.text(recorded)


def test_opposite_sign_at_desk_scale_is_always_qualified(recorded: list[Record]) -> None:
    verdicts = [(record, record.verdict(row)[0]) for record in recorded for row in record.rows]
    opposite = [(record, verdict) for record, verdict in verdicts if verdict.startswith("opposite")]
    assert opposite
    assert all(verdict == "opposite sign at desk scale" for _, verdict in opposite)
    listing = " ".join(table.listing(CLAIMS, recorded, {}, RECORDS).split())
    markdown = document.text(recorded)
    for text in (markdown, listing):
        assert not re.search(r"opposite sign\*?(?! at desk scale)(,|;| \|)", text)
    for record in recorded:
        assert all(record.setting(row) in markdown for row in record.rows)
        # On the terminal the setting stands once, above the rows of the record.
        assert record.setting() in listing


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (None, ""),
        (0.0004, "<0.001"),
        (0.0123, "0.012"),
        (0.05, "0.050"),
        (0.050001, "0.0501"),
        (0.05021, "0.0503"),
        (0.0506, "0.051"),
        (1.0, "1.000"),
    ],
)
def test_p_value_never_looks_smaller_than_the_limit_that_it_is_above(
    p: float | None, words: str
) -> None:
    assert table.p_in_words(p) == words


def test_numbers_of_the_table_have_no_negative_zero(recorded: list[Record]) -> None:
    """The plain average of five nets minus the weighted one is -2e-15, which reads 0.00."""
    ours = [row.ours for row in table.table_rows(recorded)]
    assert any(number.startswith("0.00") for number in ours)
    assert not any("-0.00" in number for number in ours)


def test_only_an_effect_that_stands_has_a_colored_verdict(recorded: list[Record]) -> None:
    """An interval beside no effect is not enough where many rows are read together."""
    rows = list(table.table_rows(recorded))
    for row in rows:
        assert row.stands == (row.p == "<0.001" or (bool(row.p) and float(row.p) <= 0.05))
    assert any(row.outcome == "same sign" and not row.stands for row in rows)
    tested = sum(bool(row.p) for row in rows)
    rule = f"{sum(row.stands for row in rows)} of the {tested} that have a p value do."
    page = report.page(recorded)
    assert rule in page
    badges = re.findall('class="chip ([a-z-]+)">', page)
    colored = [row.outcome.replace(" ", "-") for row in rows if row.stands]
    # Each row stands in the table, and once more with its claim.
    assert sorted(badge for badge in badges if badge != "inconclusive") == sorted(2 * colored)
    listing = " ".join(table.listing(CLAIMS, recorded, {}, RECORDS).split())
    assert listing.startswith("An effect stands only where p is at most 0.05: ")
    assert rule in listing
    assert listing.count(", stands;") == len(colored)


def test_overview_names_each_claim_once_and_counts_the_effects_that_stand(
    recorded: list[Record],
) -> None:
    text = " ".join(table.overview(recorded, {}, RECORDS).split())
    for claim in CLAIMS:
        assert text.count(f" {claim.id}: {claim.printed_statement}") == 1
    for record in recorded:
        if len(record.rows) > 1:
            assert f"{where(record.raw)}: {len(record.rows)} effects: " in text
    counts = re.findall(r"; (\d+) stand", text)
    alone = text.count(", stands")
    standing = sum(row.stands for row in table.table_rows(recorded))
    assert sum(map(int, counts)) + alone == standing


def test_arms_are_named_in_american_english(recorded: list[Record]) -> None:
    errors = "\n".join(line for record in recorded for line in record.errors())
    for name in ("normalisation", "colour"):
        assert name not in errors
    assert "normalisation" not in document.text(recorded)


def test_relu_reports_training_error_and_that_six_is_outside_the_interval(
    recorded: list[Record],
) -> None:
    (relu,) = (record for record in recorded if record.claim.id == "relu")
    assert relu.verdict(relu.rows[0]) == ("same sign", "6 outside the interval")
    assert all(line.startswith("training error, ") for line in relu.errors())
    (section,) = re.findall(r"\*\*relu\*\*.*?\n\*\*columns", document.text([relu]), re.DOTALL)
    assert "test error" not in section
    lrn = records.opened(raw("lrn-tiny-imagenet-desk"))
    assert all(line.startswith("test error, ") for line in lrn.errors())


def test_tests_of_the_program_take_no_part_in_the_adjustment(recorded: list[Record]) -> None:
    bare = [
        replace(one, rows=tuple(replace(row, adjusted_p=None) for row in one.rows))
        for one in recorded
    ]
    smoke = [replace(one, raw=one.raw | {"scale": "smoke"}) for one in bare[:3]]
    assert records.adjusted([*smoke, *bare]) == [*smoke, *recorded]


def test_p_values_are_adjusted_over_all_rows(recorded: list[Record]) -> None:
    rows = [row for record in recorded for row in record.rows if row.adjusted_p is not None]
    assert [row.adjusted_p for row in rows] == holm([row.estimate.p or 0.0 for row in rows])
    standing = sum((row.adjusted_p or 0.0) <= 0.05 for row in rows)
    text = " ".join(document.text(recorded).split())
    assert f"the {len(rows)} rows of the table" in text
    assert f"family-wise error of 5 %: {standing} do." in text


def test_document_explains_repetition_only_if_a_row_needs_it() -> None:
    relu = raw("relu-cifar10-full")
    assert "To be repeated" not in document.text(records.adjusted([records.opened(relu)]))
    mark = "A row with (*) is to be repeated"
    assert mark not in table.overview(records.adjusted([records.opened(relu)]), {}, RECORDS)
    relu["parts"]["tanh"]["train_of_each"] = 100
    assert "To be repeated" in document.text(records.adjusted([records.opened(relu)]))
    overview = table.overview(records.adjusted([records.opened(relu)]), {}, RECORDS)
    assert mark in " ".join(overview.split())


def test_full_scale_counts_as_the_papers_setting_only_on_its_data() -> None:
    lrn = raw("lrn-tiny-imagenet-desk") | {"scale": "full"}
    for run in lrn["arms"]["no normalisation"]:
        run["test_error"] = 0.1
    on_others = records.opened(lrn)
    assert on_others.verdict(on_others.rows[0])[0] == "opposite sign on other images"
    assert document.not_run(on_others.claim, [on_others])
    text = document.text(records.adjusted([on_others]))
    assert document.NOT_RUN in text.split("**lrn**")[1].split("**lrn-cifar**")[0]
    on_imagenet = records.opened(lrn | {"on": "imagenet"})
    verdict = on_imagenet.verdict(on_imagenet.rows[0])
    assert verdict == ("opposite sign", "1.4 outside the interval")
    assert document.not_run(on_imagenet.claim, [on_imagenet]) == ()
    (relu,) = chosen(["relu"])
    assert document.not_run(relu, [records.opened(raw("relu-cifar10-full"))]) == ()


def test_claim_that_has_no_full_scale_is_done_with_its_desk_record() -> None:
    (claim,) = chosen(["images"])
    of_scale = {
        scale: Record(claim, {"scale": scale, "on": "tiny-imagenet"}, {}, ())
        for scale in ("smoke", "desk")
    }
    (command,) = document.not_run(claim, [of_scale["smoke"]])
    assert command.endswith("--scale desk")
    assert document.not_run(claim, list(of_scale.values())) == ()


def test_report_page_holds_every_claim_and_is_self_contained(run: Path, tmp_path: Path) -> None:
    page, document = tmp_path / "claims.html", tmp_path / "reproduction.md"
    options = ["--records", str(RECORDS)]
    both = "--report", str(page), "--document", str(document)
    main(["reproduce", *both, *options, "--runs", str(run)])
    text = page.read_text()
    for claim in CLAIMS:
        assert f'id="{claim.id}">' in text
        assert f"**{claim.id}**" in document.read_text()
    for record in records.read(RECORDS):
        # In each row, and above the list of the claim.
        assert record.setting() in text
        assert all(record.setting(row) in text for row in record.rows)
    assert "**" not in text
    assert "](" not in text
    assert "opposite sign<" not in text
    assert text.count("<figure>") >= 5
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "<link" not in text


def test_report_of_a_run_without_filters_is_refused_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = FullyConnected("fc1", 6, then=("activation",)), FullyConnected("fc2", 10, then=())
    flat = Mock(net=Network(Architecture(layers, input_px=32, columns=1)))
    monkeypatch.setattr(report, "load", lambda run: flat)
    with pytest.raises(RunError, match="fc1 has no filters to draw"):
        report.page([], [Path("flat")])


def test_effects_in_the_readme_are_those_of_the_records(recorded: list[Record]) -> None:
    readme = (ROOT / "README.md").read_text()
    row = re.compile(r"^\| `(\w+)` \| .* \| (.*) \| (-?\d+\.\d\d(?: \[.*\])?) \|$", re.MULTILINE)
    quoted = row.findall(readme)
    assert len(quoted) == 12
    rows = [*table.table_rows(recorded)]
    computed = {(one.claim, one.paper, one.ours) for one in rows if "tiny-imagenet" in one.setting}
    assert {*quoted} <= computed
    stand, tested = sum(one.stands for one in rows), sum(bool(one.p) for one in rows)
    assert f"{stand} of the {tested} effects with a p value stand" in readme


def test_effects_of_the_ladder_in_the_recipes_are_those_of_the_record(
    recorded: list[Record],
) -> None:
    row = re.compile(r"^\| .* \| (-?\d\.\d\d) \| (-?\d+\.\d\d) to (-?\d+\.\d\d) \|", re.MULTILINE)
    quoted = row.findall((ROOT / "docs" / "recipes.md").read_text())
    (ladder,) = (
        one for one in recorded if (one.claim.id, one.raw["on"]) == ("ladder", "photographs")
    )
    assert [f"{mean} [{low}, {high}]" for mean, low, high in quoted] == [
        one.ours for one in table.table_rows([ladder])
    ]


def test_ladder_on_tiny_imagenet_in_the_recipes_is_that_of_the_record(
    recorded: list[Record],
) -> None:
    effect = r"-?\d\.\d\d \[.*\]"
    row = re.compile(rf"^\| .* \| ({effect}) \| ({effect}|\(one crop\)) \|$", re.MULTILINE)
    quoted = row.findall((ROOT / "docs" / "recipes.md").read_text())
    (ladder,) = (
        one for one in recorded if (one.claim.id, one.raw["on"]) == ("ladder", "tiny-imagenet")
    )
    center, ten = zip(*quoted, strict=True)
    assert list(center) == [one.ours for one in table.table_rows([ladder])]
    for one, words in zip(ladder.rows, ten, strict=True):
        runs = (ladder.results[arm] for arm in one.effect.arms)
        differences = [100 * (a.test_error - b.test_error) for a, b in zip(*runs, strict=True)]
        made = estimate(differences, 0.0, False)
        alone = one.effect.arms[1] == "larger test crops"
        assert words == (
            "(one crop)" if alone else f"{made.mean:.2f} [{made.low:.2f}, {made.high:.2f}]"
        )


def by_images(seeds: int) -> Record:
    """A record of claim images whose effects are made up."""
    (claim,) = chosen(["images"])
    rows = tuple(
        Row(effect, estimate([1.0 * n, 1.1 * n, 1.3 * n][:seeds], 0.0, True), ())
        for n, effect in enumerate(claim.effects)
    )
    return Record(claim, {"on": "tiny-imagenet"}, {}, rows)


def test_single_runs_by_number_of_images_are_not_joined_and_have_no_interval() -> None:
    record = by_images(1)
    (axes,) = drawings.by_images(record).axes
    line, *points = axes.lines
    assert [one.get_linestyle() for one in (line, *points)] == ["-", "None", "None", "None"]
    (picture,) = pictures([record])
    assert "A point is one pair of runs: there is no interval" in picture.caption


def test_effects_by_number_of_images_are_three_curves() -> None:
    record = by_images(3)
    (picture,) = pictures([record])
    # None of its rows is a bar among the differences of test error.
    assert picture.title == "Overfitting: the number of images"
    assert "A point is the mean over seeds" in picture.caption
    (axes,) = picture.figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "without dropout minus with it",
        "without random crops and reflections minus with them",
        "without color noise minus with it",
    ]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["3,100", "6,250", "12,500", "25,000"]
    # Twelve intervals, three curves and the line of no effect.
    assert len(axes.lines) == 16


def test_claim_that_is_a_chain_of_commands_lists_them_whole_and_names_no_data() -> None:
    (claim,) = chosen(["seven"])
    lines = table.listing([claim], [], {}, RECORDS).splitlines()
    assert [line.strip() for line in lines[lines.index("  Run it:") + 1 :]] == list(
        claim.manual_commands
    )
    assert not any(line.strip().startswith("Data:") for line in lines)


def test_every_interval_of_the_figure_names_its_scale_and_data(recorded: list[Record]) -> None:
    points = [
        (record, row)
        for record in recorded
        for row in record.rows
        if record.claim.id in ("lrn", "lrn-cifar") and not row.effect.top5
    ]
    (axes,) = drawings.bars(points).axes
    names = [text.get_text().split(":")[0] for text in reversed(axes.texts)]
    assert names == ["lrn (desk, tiny-imagenet)", *["lrn-cifar (desk, CIFAR-10)"] * 2]


def test_only_single_parts_are_shown_as_what_each_part_is_worth(recorded: list[Record]) -> None:
    titles = {
        record.claim.id: [one.title for one in pictures([record])]
        for record in recorded
        if record.claim.id in ("modern", "links")
    }
    assert titles == {"modern": [], "links": ["What each part is worth"]}


def test_differences_of_test_error_are_shown_whatever_the_name_of_the_effect(
    recorded: list[Record],
) -> None:
    """By the measure: exactly those whose names in words are of the test error."""
    for claim in CLAIMS:
        for effect in claim.effects:
            of_test_error = effect.name.startswith("test error, ")
            assert (effect.measure in measures.OF_TEST_ERROR) == of_test_error, effect.name
    (links,) = (
        one for one in recorded if (one.claim.id, one.raw["on"]) == ("links", "tiny-imagenet")
    )
    rows = [replace(row, effect=replace(row.effect, name="another name")) for row in links.rows]
    (picture,) = pictures([replace(links, rows=tuple(rows))])
    assert picture.title == "What each part is worth"


def test_document_lists_the_claims_that_the_paper_does_not_make(recorded: list[Record]) -> None:
    ours = [claim.id for claim in CLAIMS if not claim.in_paper]
    assert ours == ["images", "ladder", "modern", "links"]
    assert f"({', '.join(f'`{name}`' for name in ours)})" in document.text(recorded)
    assert not any("in the paper" in claim.statement for claim in CLAIMS)
