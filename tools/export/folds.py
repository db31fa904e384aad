"""Who validates in which fold, and which synthetic cases may not be trained on there."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.model_selection import GroupKFold

__all__ = ["assign_folds", "require_whole_groups"]


def assign_folds(groups: Sequence[str], folds: int, seed: int = 0) -> list[int]:
    """Deal cases to folds, all cases of one group to the same.

    Args:
        groups: of each case: its patient, or what else must not be on both sides.
        folds: number of folds, 2 to the number of groups.
        seed: of the shuffle.

    Returns:
        For each case its fold, from 0.

    Raises:
        ValueError: if there are fewer groups than folds, or fewer than two folds.

    Example:
        >>> folds = assign_folds(["a", "b", "a", "c"], 3)
        >>> folds[0] == folds[2], sorted(set(folds))
        (True, [0, 1, 2])
    """
    count = len(set(groups))
    if not isinstance(folds, int) or not 2 <= folds <= count:
        raise ValueError(
            f"folds must be a whole number from 2 to the number of patients that can be validated "
            f"({count}), got {folds}"
        )
    result = [0] * len(groups)
    split = GroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for fold, (_, validated) in enumerate(split.split(result, groups=list(groups))):
        for index in validated:
            result[index] = fold
    return result


def require_whole_groups(groups: Sequence[str], folds: Sequence[int | None]) -> dict[str, int]:
    """Return the fold of each group, of those that are validated at all.

    Args:
        groups: of each case.
        folds: of each case; None: it is never validated.

    Raises:
        ValueError: if a group is in two folds, or the folds have a gap.

    Example:
        >>> require_whole_groups(["a", "b", "c"], [0, 1, None])
        {'a': 0, 'b': 1}
    """
    places: dict[str, int | None] = {}
    for group, fold in zip(groups, folds, strict=True):
        if places.setdefault(group, fold) != fold:
            raise ValueError(
                "real scans of one patient must lie in one fold, got "
                f"{group[:40]} in {places[group]} and {fold} (None: never validated)"
            )
    result = {group: fold for group, fold in places.items() if fold is not None}
    used = sorted(set(result.values()))
    if used != list(range(len(used))):
        raise ValueError(f"folds of real must be 0, 1, ... without gaps, got {used}")
    return result
