from __future__ import annotations

import dataclasses

import pytest
import torch

from objectwise.core import Decomposition, Posterior, presence_from_masks


def decomposition(presence: list[list[float]], background: tuple[int, ...] = (), **more: object) -> Decomposition:
    batch, slots = len(presence), len(presence[0])
    masks = torch.rand(batch, slots, 4, 5, generator=torch.Generator().manual_seed(0))
    return Decomposition(
        loss=torch.arange(float(batch)),
        terms={"kl": torch.arange(float(batch))},
        reconstruction=torch.rand(batch, 3, 4, 5),
        components=torch.rand(batch, slots, 3, 4, 5),
        masks=masks / masks.sum(dim=1, keepdim=True),
        slots=torch.rand(batch, slots, 2),
        presence=torch.tensor(presence),
        background=background,
        **more,  # type: ignore[arg-type]
    )


def test_counts_by_presence() -> None:
    """More than one half counts, one half does not, and background never does."""
    presence = [[1.0, 0.9, 0.5, 0.51], [1.0, 0.1, 0.2, 0.3]]
    assert decomposition(presence).counts().tolist() == [3, 1]
    assert decomposition(presence, background=(0,)).counts().tolist() == [2, 0]
    assert decomposition(presence, background=(0, 1)).counts().tolist() == [1, 0]


def test_counts_by_probability_where_there_is_one() -> None:
    """(.4, .3, .3): no object is most probable, though S_1 = .6."""
    found = decomposition([[1.0, 0.6, 0.3]], background=(0,), count_probs=torch.tensor([[0.4, 0.3, 0.3]]))
    assert found.counts().tolist() == [0]
    assert found.found_slots() == [[]]


def test_found_slots_are_the_most_present_in_order() -> None:
    presence = [[0.1, 0.6, 1.0, 0.9], [0.7, 0.2, 1.0, 0.2]]
    assert decomposition(presence).found_slots() == [[1, 2, 3], [0, 2]]
    assert decomposition(presence, background=(2,)).found_slots() == [[1, 3], [0]]
    ties = decomposition([[1.0, 0.4, 0.4, 0.4]], background=(0,), count_probs=torch.tensor([[0.0, 0.0, 1.0, 0.0]]))
    assert ties.found_slots() == [[1, 2]]
    assert ties.object_slots == [1, 2, 3]


def test_a_floating_background_is_the_present_slot_that_wins_the_most_pixels() -> None:
    """Slot 1; slot 2, because slot 0 is absent; none, because nothing is present; none, because a third is not more than that."""
    winners = torch.tensor([[0, 2, 1, 1, 1, 1], [0, 0, 0, 2, 2, 2], [2, 2, 2, 2, 1, 0], [0, 0, 1, 1, 2, 2]])
    masks = torch.nn.functional.one_hot(winners.view(4, 2, 3), 3).permute(0, 3, 1, 2).float()
    presence = [[1.0, 1.0, 0.9], [0.1, 0.8, 0.7], [0.2, 0.3, 0.4], [1.0, 1.0, 1.0]]
    found = dataclasses.replace(decomposition(presence), masks=masks, floating_background=True)
    assert found.counts().tolist() == [2, 1, 0, 3]
    assert found.found_slots() == [[0, 2], [1], [], [0, 1, 2]]
    assert dataclasses.replace(found, background=(1,)).counts().tolist() == [2, 0, 0, 2]
    assert dataclasses.replace(found, floating_background=False).counts().tolist() == [3, 2, 0, 3]


def test_presence_rule() -> None:
    """A slot is there if it wins at least a thousandth of the pixels: 4 of 64×64 are too few, 5 are enough."""
    masks = torch.zeros(1, 4, 64, 64)
    masks[:, 0] = 0.5
    masks[0, 1, 0, :4] = 0.6
    masks[0, 2, 1, :5] = 0.6
    assert presence_from_masks(masks).tolist() == [[1.0, 0.0, 1.0, 0.0]]
    assert presence_from_masks(masks, 0.0009).tolist() == [[1.0, 1.0, 1.0, 0.0]]
    assert presence_from_masks(masks.bfloat16()).dtype == torch.float32


def test_presence_rule_on_small_images_needs_a_pixel() -> None:
    masks = torch.zeros(2, 2, 4, 4)
    masks[0, 0], masks[1, 1] = 1, 1
    assert presence_from_masks(masks).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_segmentation_takes_the_first_on_ties() -> None:
    found = decomposition([[1.0, 1.0, 1.0]])
    masks = torch.tensor([0.2, 0.4, 0.4]).view(1, 3, 1, 1).expand(1, 3, 4, 5)
    assert dataclasses.replace(found, masks=masks).segmentation().unique().tolist() == [1]
    assert dataclasses.replace(found, masks=masks[:, :1]).segmentation().unique().tolist() == [0]


def test_mask_kinds_say_what_the_masks_are() -> None:
    found = decomposition([[1.0, 1.0]])
    other = torch.rand_like(found.masks)
    kinds = {
        ("masks",): found,
        ("attention", "decoded"): dataclasses.replace(found, decoded_masks=other),
        ("decoded", "attention"): dataclasses.replace(found, attention_masks=other),
    }
    for names, case in kinds.items():
        assert tuple(case.mask_kinds()) == names
        assert torch.equal(next(iter(case.mask_kinds().values())), found.masks)
    assert torch.equal(dataclasses.replace(found, decoded_masks=other).mask_kinds()["decoded"], other)


def full() -> Decomposition:
    step = decomposition([[1.0, 0.2], [0.3, 0.4], [1.0, 1.0]])
    return dataclasses.replace(
        step,
        posterior=Posterior(torch.rand(3, 2, 2), torch.rand(3, 2, 2)),
        attention_masks=torch.rand(3, 2, 4, 5),
        decoded_masks=torch.rand(3, 2, 4, 5),
        boxes=torch.rand(3, 2, 4),
        count_probs=torch.rand(3, 3),
        auxiliary_losses={"critic": torch.rand(3)},
        factors={"x": torch.rand(3, 2)},
        trajectory=(step, step),
    )


def tensors(found: Decomposition) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return tensor

    found.map(keep)
    return seen


def test_map_reaches_every_tensor() -> None:
    found = full()
    # Six tensors and one term in each of three decompositions, and eight more in the outer one.
    assert len(tensors(found)) == 7 * 3 + 8
    names = {field.name for field in dataclasses.fields(found)} - {"background", "floating_background"}
    doubled = found.map(lambda tensor: tensor * 2)
    for name in names - {"terms", "auxiliary_losses", "factors", "trajectory", "posterior"}:
        assert torch.equal(getattr(doubled, name), 2 * getattr(found, name)), name
    assert torch.equal(doubled.terms["kl"], 2 * found.terms["kl"])
    assert torch.equal(doubled.factors["x"], 2 * found.factors["x"])
    assert torch.equal(doubled.auxiliary_losses["critic"], 2 * found.auxiliary_losses["critic"])
    assert doubled.posterior is not None
    assert found.posterior is not None
    assert torch.equal(doubled.posterior.std, 2 * found.posterior.std)
    assert doubled.trajectory is not None
    assert found.trajectory is not None
    assert torch.equal(doubled.trajectory[1].masks, 2 * found.trajectory[1].masks)


def test_select_detach_and_to() -> None:
    found = full().map(lambda tensor: tensor.requires_grad_())
    part = found.select(torch.tensor([2, 0]))
    assert {len(tensor) for tensor in tensors(part)} == {2}
    assert part.loss.tolist() == [2.0, 0.0]
    assert not any(tensor.requires_grad for tensor in tensors(found.detach()))
    assert {tensor.device.type for tensor in tensors(found.to("meta"))} == {"meta"}
    assert found.num_slots == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.loss = found.loss  # type: ignore[misc]
