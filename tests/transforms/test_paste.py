"""The composite in the scan's own units."""

import torch

from tools.transforms.paste import PasteLesiond


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
