"""Findings that compare all samples: equal pixels, equal pictures, and ground that two splits share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

from rsseg_tf.disjoint_sets import DisjointSets
from rsseg_tf.doctor.evidence import Evidence
from rsseg_tf.doctor.findings import Finding, listing
from rsseg_tf.doctor.fingerprints import Fingerprint, NearPair, near_pairs
from rsseg_tf.doctor.places import Place, overlaps

__all__ = ["duplicate_findings", "leak_of", "near_duplicate_findings", "overlap_findings"]


def duplicate_findings(evidence: Evidence) -> Iterator[Finding]:
    """Yields images with equal pixels: within a split, across splits, and with different labels."""
    for positions in _groups(evidence):
        for split, members in evidence.members.items():
            inside = set(members)
            names = evidence.image_names(position for position in positions if position in inside)
            if len(names) > 1:
                yield Finding("duplicate-image", (split,), names, f"{listing(names)} hold the same pixels")
        splits = evidence.splits_of(positions)
        names = evidence.image_names(positions)
        if len(splits) > 1:
            yield leak_of(names, splits)
        # Equal pixels with different labels teach two answers to one question.
        labelled = [position for position in positions if evidence.facts[position].label]
        if len({label.digest for position in labelled if (label := evidence.facts[position].label)}) > 1:
            files = [path for position in labelled if (path := evidence.samples[position].label)]
            label_names = tuple(dict.fromkeys(evidence.name(path) for path in files))
            message = f"{listing(names)} {'has' if len(names) == 1 else 'have equal pixels, but'} different labels: "
            yield Finding("label-conflict", splits, (*names, *label_names), message + listing(label_names))


def leak_of(names: tuple[str, ...], splits: tuple[str, ...]) -> Finding:
    """Returns the finding about one image, or images with equal pixels, in several splits."""
    what = "stands" if len(names) == 1 else "hold the same pixels and stand"
    return Finding("leak-same-pixels", splits, names, f"{listing(names)} {what} in {listing(splits)}")


def near_duplicate_findings(evidence: Evidence, distance: int) -> Iterator[Finding]:
    """Yields images that show the same picture although their pixels differ.

    Args:
        evidence: Facts about the dataset.
        distance: See `near_pairs`.
    """
    # Images with equal pixels have findings of their own; the first of them stands for all.
    groups = [
        (positions, found)
        for positions in _groups(evidence)
        if (image := evidence.facts[positions[0]].image) and (found := image.fingerprint)
    ]
    for pairs in _components([found for _, found in groups], distance):
        ones = sorted({place for pair in pairs for place in (pair.first, pair.second)})
        positions = [position for place in ones for position in groups[place][0]]
        splits, names = evidence.splits_of(positions), evidence.image_names(positions)
        code = "leak-near-duplicate" if len(splits) > 1 else "near-duplicate"
        message = f"{listing(names)} show the same picture"
        if len(ones) == 2:
            pair = pairs[0]
            bits = "1 bit of the hash differs" if pair.distance == 1 else f"{pair.distance} bits of the hash differ"
            message += f"{', ' if pair.turn else ''}{pair.turn} ({bits})"
        yield Finding(code, splits, names, message + (f", in {listing(splits)}" if len(splits) > 1 else ""))


def overlap_findings(evidence: Evidence) -> Iterator[Finding]:
    """Yields the georeferenced images of a split that share ground with images of an earlier split."""
    places: dict[str, dict[int, Place]] = {}
    for split, members in evidence.members.items():
        images = ((position, evidence.facts[position].image) for position in dict.fromkeys(members))
        places[split] = {position: image.place for position, image in images if image and image.place}
    for earlier, later in combinations(evidence.members, 2):
        for found in overlaps(places[later], places[earlier]):
            own = evidence.name(evidence.samples[found.image].image)
            names = evidence.image_names(found.others)
            share = f"{100 * found.share:.0f} %" if found.share >= 0.01 else "less than 1 %"
            message = f"{own} shares {share} of its ground with {names[0]}"
            if len(names) > 1:
                message += f", and some with {len(names) - 1} more"
            yield Finding("leak-overlap", (earlier, later), (own, *names), f"{message} of {earlier}")


def _groups(evidence: Evidence) -> list[list[int]]:
    """Groups the positions of samples by equal pixels, without constant images, which have a finding of their own."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for position, facts in enumerate(evidence.facts):
        if facts.image is not None and not facts.image.is_constant:
            groups[facts.image.digest].append(position)
    return list(groups.values())


def _components(prints: Sequence[Fingerprint], distance: int) -> list[list[NearPair]]:
    """Returns, for each group of equal pictures, the pairs that connect it, in the order of first members."""
    sets = DisjointSets()
    kept: list[NearPair] = []
    # A pair inside a group that earlier pairs connect adds nothing. So n equal pictures keep n - 1 pairs.
    for pair in near_pairs(prints, distance):
        one, other = sorted((sets.root(pair.first), sets.root(pair.second)))
        if one != other:
            sets.join(one, other)
            kept.append(pair)
    # The smaller root wins each join, so that a group's root is its first member.
    components: defaultdict[int, list[NearPair]] = defaultdict(list)
    for pair in kept:
        components[sets.root(pair.first)].append(pair)
    return [components[first] for first in sorted(components)]
