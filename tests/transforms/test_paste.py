"""The composite in the scan's own units."""

import torch

from tools.transforms.paste import PasteChanged, PasteLesiond


def test_background_is_copied_bit_for_bit_and_integers_are_rounded() -> None:
    scan = torch.randint(-3000, 3000, (1, 4, 4, 4), dtype=torch.int16)
    label = torch.zeros(1, 4, 4, 4)
    label[0, 1, 1, 1] = label[0, 2, 2, 2] = 1
    pred = torch.full((1, 4, 4, 4), 0.25)
    sample = {"pred": pred, "scan": scan, "label": label}
    result = PasteLesiond("pred", window=(-1000, 400))(sample)["pred"]
    assert result.dtype == torch.int16
    assert (result[label == 1] == -125).all()
    assert torch.equal(result[label == 0], scan[label == 0])
    assert torch.equal(sample["pred"], pred)  # the input sample is left alone


def test_what_changed_is_added_and_the_rest_keeps_every_bit() -> None:
    scan = torch.tensor([[[1500, -1200, 40, 0]]], dtype=torch.int16)
    image = torch.tensor([[[1.0, 0.0, 0.52, 0.5]], [[0.0, 0.0, 1.0, 1.0]]])
    pred = torch.tensor([[[0.99, 0.0, 0.02, 0.5]]])
    sample = {"pred": pred, "image": image, "scan": scan}
    composite = PasteChanged("pred", scale=2000)(sample)["pred"]
    assert composite.dtype == torch.int16
    assert composite.tolist() == [[[1480, -1200, -960, 0]]]
