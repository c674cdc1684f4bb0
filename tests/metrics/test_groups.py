from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scenes_of_discs import Discs, discs
from torch import Tensor

from objectwise import metrics
from objectwise.core import Batch, Decomposition, FactorSpec, UserError, presence_from_masks
from objectwise.metrics.groups import (
    METRIC_GROUPS,
    GroupScores,
    GroupSettings,
    MetricGroup,
    PropertiesGroup,
    SegmentationGroup,
    metric_group,
)


def pair(scenes: Discs, masks: Tensor, rows: slice, **labels: object) -> tuple[Batch, Decomposition]:
    """A batch and a made-up decomposition of it whose reconstruction is half right."""
    images, part = scenes.images[rows], masks[rows]
    zeros = torch.zeros(len(part))
    out = Decomposition(
        loss=zeros,
        terms={},
        reconstruction=images + 0.1,
        components=part.unsqueeze(2),
        masks=part,
        slots=part.flatten(2)[:, :, ::512],
        presence=presence_from_masks(part),
    )
    index = torch.arange(rows.start, rows.start + len(part))
    given: dict[str, object] = {"instances": scenes.ids[rows], **labels}
    return Batch(index, images, **given), out  # type: ignore[arg-type]


def feed(
    group: MetricGroup, scenes: Discs, kinds: Mapping[str, Tensor], size: int = 7, **labels: object
) -> GroupScores:
    for start in range(0, len(scenes.ids), size):
        rows = slice(start, start + size)
        batch, out = pair(scenes, kinds["masks"], rows, **labels)
        group.add(batch, out, {kind: masks[rows] for kind, masks in kinds.items()})
    return group.scores()


def mixed() -> Discs:
    """20 scenes with 3 objects, 10 with 1 and 10 with none."""
    three, one = discs(20), discs(10, objects=1, seed=1)
    none = torch.zeros_like(one.ids)
    return Discs(
        torch.cat([three.images, one.images, torch.full_like(one.images, 0.5)]),
        torch.cat([three.ids, one.ids, none]),
        torch.zeros(40, 4, dtype=torch.int64),
    )


def noisy(scenes: Discs, share: float = 0.08) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    hit = torch.rand(scenes.ids.shape, generator=generator) < share
    return scenes.masks(torch.where(hit, torch.randint(0, 4, scenes.ids.shape, generator=generator), scenes.ids))


def test_rows_are_the_metrics_of_the_whole_split() -> None:
    scenes = mixed()
    masks = noisy(scenes)
    scores = feed(SegmentationGroup(GroupSettings()), scenes, {"masks": masks})
    rows = scores.sections["masks"]
    expected = {
        "ari": metrics.adjusted_rand_index(scenes.ids, masks),
        "foreground_ari": metrics.foreground_ari(scenes.ids, masks),
        "sc": metrics.sc(scenes.ids, masks),
        "msc": metrics.msc(scenes.ids, masks),
        "sc_fg": metrics.sc_fg(scenes.ids, masks),
        "mbo_i": metrics.mbo_i(scenes.ids, masks),
        "miou_gt": metrics.miou_gt(scenes.ids, masks),
        "miou_fg": metrics.miou_fg(scenes.ids, masks),
        "miou_fg_matched_with_bg": metrics.miou_fg_matched_with_bg(scenes.ids, masks),
        "miou_pairs": metrics.miou_pairs(scenes.ids, masks),
        "recovery_rate": metrics.recovery_rate(scenes.ids, masks),
        "pq": metrics.pq(scenes.ids, masks),
        "sq": metrics.panoptic_quality(scenes.ids, masks).sq,
        "rq": metrics.panoptic_quality(scenes.ids, masks).rq,
        "pq_fg": metrics.pq_fg(scenes.ids, masks),
        "sq_fg": metrics.panoptic_quality(scenes.ids, masks, foreground=True).sq,
        "rq_fg": metrics.panoptic_quality(scenes.ids, masks, foreground=True).rq,
    }
    assert set(rows) == set(expected)
    for name, result in expected.items():
        assert rows[name].value == pytest.approx(result.value, abs=1e-12), name
        assert (rows[name].n_scored, rows[name].n_skipped) == (result.n_scored, result.n_skipped), name
        assert rows[name].policy == {**result.policy, "masks": "masks"}, name
        low, high = rows[name].interval or (1.0, 0.0)
        assert low <= rows[name].value <= high, name
    assert rows["foreground_ari"].policy["n_degenerate"] == 20
    mse = scores.sections["reconstruction"]["mse"]
    assert mse.value == pytest.approx(0.01, abs=1e-6)
    assert mse.n_scored == 40


def test_scores_are_broken_down_by_the_number_of_objects() -> None:
    scenes = mixed()
    masks = noisy(scenes)
    rows = feed(SegmentationGroup(GroupSettings()), scenes, {"masks": masks}).sections["masks"]
    full = metrics.msc(scenes.ids, masks).per_image
    assert list(rows["msc"].by_count) == [0, 1, 3]
    for count, part in ((0, full[30:]), (1, full[20:30]), (3, full[:20])):
        found = rows["msc"].by_count[count]
        assert found.value == pytest.approx(part.mean())
        assert found.n_scored == len(part)
        assert found.interval[0] <= found.value <= found.interval[1]
    assert rows["foreground_ari"].by_count[1].n_scored == 0
    assert np.isnan(rows["foreground_ari"].by_count[1].value)
    # A count that the data give goes before what can be seen: hidden objects count.
    present = torch.ones(7, 6, dtype=torch.bool)
    given = feed(SegmentationGroup(GroupSettings()), discs(7), {"masks": discs(7).masks()}, present=present)
    assert list(given.sections["masks"]["sc"].by_count) == [5]


def test_each_kind_of_masks_has_its_own_section() -> None:
    scenes = discs(14)
    kinds = {"masks": noisy(scenes), "attention_masks": scenes.masks(), "decoded_masks": torch.ones(14, 4, 16, 16)}
    scores = feed(SegmentationGroup(GroupSettings(draws=10)), scenes, kinds)
    assert set(scores.sections) == {*kinds, "reconstruction"}
    assert scores.sections["attention_masks"]["foreground_ari"].value == 1.0
    assert scores.sections["attention_masks"]["foreground_ari"].policy["masks"] == "attention_masks"
    assert scores.sections["masks"]["foreground_ari"].value < 0.9
    assert scores.sections["decoded_masks"]["foreground_ari"].value == 0.0
    assert "from (16, 16)" in str(scores.sections["decoded_masks"]["sc"].policy["labels"])


def test_the_batch_size_does_not_matter() -> None:
    scenes = mixed()
    one, all_at_once = (
        feed(metric_group("segmentation"), scenes, {"masks": noisy(scenes)}, size).record() for size in (1, 40)
    )
    assert one["masks"] == all_at_once["masks"]


def test_intervals_depend_on_the_seed_alone() -> None:
    scenes = mixed()
    first, again, other = (
        feed(SegmentationGroup(GroupSettings(seed=seed)), scenes, {"masks": noisy(scenes)})
        .sections["masks"]["msc"]
        .interval
        for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize(("policy", "scored"), [("skip", 20), ("one", 40), ("reference", 30)])
def test_the_policy_for_degenerate_images(policy: str, scored: int) -> None:
    scenes = mixed()
    group = SegmentationGroup(GroupSettings(degenerate=policy))  # type: ignore[arg-type]
    scores = feed(group, scenes, {"masks": scenes.masks()})
    row = scores.sections["masks"]["foreground_ari"]
    assert (row.n_scored, row.n_skipped) == (scored, 40 - scored)
    assert row.policy["degenerate"] == policy
    assert any(sentence.startswith("foreground ARI: 20 of 40 images") for sentence in scores.advice)
    assert feed(SegmentationGroup(GroupSettings()), discs(7), {"masks": discs(7).masks()}).advice == ()


def test_records_are_plain_json() -> None:
    scenes = mixed()
    for name in ("segmentation", "diagnosis"):
        record = feed(metric_group(name), scenes, {"masks": scenes.masks()}).record()
        assert json.loads(json.dumps(record, allow_nan=False)) == record
    found = feed(metric_group("segmentation"), scenes, {"masks": scenes.masks()}).record()["masks"]["foreground_ari"]
    assert found["value"] == 1.0
    assert found["interval"] == [1.0, 1.0]
    assert found["by_count"]["0"] == {"value": None, "interval": [None, None], "n_scored": 0}
    assert found["policy"]["resolution"] == [64, 64]


@pytest.mark.parametrize("name", ["segmentation", "properties"])
def test_groups_that_need_masks_say_so(name: str) -> None:
    scenes = discs(3)
    batch, out = pair(scenes, scenes.masks(), slice(0, 3), instances=None)
    with pytest.raises(UserError, match=f"the data .* masks .*'{name}'"):
        metric_group(name).add(batch, out, {"masks": out.masks})


def test_an_unknown_group_names_the_nearest() -> None:
    with pytest.raises(UserError, match="no metric group 'segmentaton'; did you mean 'segmentation'"):
        metric_group("segmentaton")
    assert set(METRIC_GROUPS) >= {"segmentation", "diagnosis", "properties"}


# -- properties ------------------------------------------------------------------------------------------------------


def property_labels(scenes: Discs) -> dict[str, Tensor]:
    """Mean column of each entity, and a class that is always the same."""
    columns = torch.arange(64.0).expand(len(scenes.ids), 64, 64)
    one_hot = scenes.masks()
    x = (one_hot * columns.unsqueeze(1)).sum(dim=(2, 3)) / one_hot.sum(dim=(2, 3)).clamp_min(1.0)
    return {"x": x, "kind": torch.ones(x.shape, dtype=torch.int64)}


SPECS = {"x": FactorSpec("pixels", low=0, high=63), "kind": FactorSpec("class", "categorical", categories=("a", "b"))}


def feed_properties(scenes: Discs) -> GroupScores:
    """Slots that hold x."""
    factors, group = property_labels(scenes), metric_group("properties")
    for start in range(0, len(scenes.ids), 20):
        rows = slice(start, start + 20)
        part = {name: values[rows] for name, values in factors.items()}
        batch, out = pair(scenes, scenes.masks(), rows, factors=part, factor_specs=SPECS)
        out.slots.zero_()
        out.slots[:, :, 0] = factors["x"][rows] / 64.0
        group.add(batch, out, {"masks": out.masks})
    return group.scores()


def test_properties_of_a_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PropertiesGroup, "HEADS", ("linear",))
    monkeypatch.setattr(PropertiesGroup, "MAX_STEPS", 750)
    scores = feed_properties(discs(130))
    assert set(scores.sections) == {"linear_mask_matching", "linear_loss_matching"}
    assert scores.policy["images"] == (100, 10, 20)
    for rows in scores.sections.values():
        assert rows["x"].value > 0.5
        assert rows["x"].n_scored == 60  # objects of the 20 test images
        assert rows["x"].note == "R², pixels"
        assert rows["kind"].note == "constant"
        assert rows["kind"].record()["value"] is None
        assert rows["kind"].record()["policy"]["constant"] is True
    with pytest.raises(UserError, match="at least 26 images, not 20"):
        feed_properties(discs(20))
