"""Each method around a tiny backbone: what learns, what follows, what is remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from rsseg_tf.backbones import resnet, resnet_vd
from rsseg_tf.config.zoo import check_queue
from rsseg_tf.errors import ConfigError
from rsseg_tf.layers import BatchNorm
from rsseg_tf.ssl import DenseCL, Method, MoCoBYOL, MoCoV2, OneDevice, PixPro, SimSiam, SwAV
from rsseg_tf.ssl.momentum import cosine_rate
from rsseg_tf.ssl.queue import Queue
from rsseg_tf.ssl.simsiam import zero_init_residual


def backbone() -> keras.Model:
    return resnet((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=False)


METHODS: dict[str, Callable[..., Method]] = {
    "moco_v2": lambda **o: MoCoV2(backbone, dim=6, queue_size=16, momentum=0.9, key_bn_splits=2, **o),
    "densecl": lambda **o: DenseCL(backbone, dim=6, queue_size=16, momentum=0.9, key_bn_splits=2, **o),
    "simsiam": lambda **o: SimSiam(backbone, dim=12, predictor_hidden=4, **o),
    "swav": lambda **o: SwAV(
        backbone, dim=6, hidden=8, prototypes=7, **{"freeze_prototypes_steps": 0, "queue_size": 8} | o
    ),
    "pixpro": lambda **o: PixPro(backbone, dim=6, hidden=8, **{"steps": 10, "instance_weight": 0.5} | o),
    "moco_byol": lambda **o: MoCoBYOL(backbone, steps=10, dim=6, hidden=8, queue_size=16, **o),
}
WITH_KEYS = ["moco_v2", "densecl", "pixpro", "moco_byol"]
WITH_QUEUE = {"moco_v2": 1, "densecl": 1, "moco_byol": 2}  # keys of a sample


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(1)


def batch(seed: int = 0, small: bool = False, size: int = 32) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    affine = np.array([[0.6, 0, 0.1], [0, 0.6, 0.2]])
    result = {
        "views": rng.normal(size=(4, 2, size, size, 3)),
        "affines": affine + rng.uniform(-0.05, 0.05, (4, 2, 2, 3)),
    }
    if small:
        result["small_views"] = rng.normal(size=(4, 3, 16, 16, 3))
    return {name: tf.constant(value, tf.float32) for name, value in result.items()}


def size_for(method: Method) -> int:
    """Methods that compare cells need more than one: stride 32 leaves 2x2 of 64 pixels."""
    return 64 if isinstance(method, DenseCL | PixPro) else 32


def step_of(method: Method, step: int = 0, **options: Any) -> Any:
    """One step without an optimizer: before, objective, after."""
    number = tf.constant(step, tf.int32)
    method.before_step(number)
    outcome = method.objective(batch(step, size=size_for(method), **options), step=number, devices=OneDevice())
    method.after_step(number, outcome.memory)
    return outcome


# === What learns ===


@pytest.mark.parametrize("name", METHODS)
def test_all_trained_weights_get_a_gradient_and_nothing_else_does(name: str) -> None:
    method = METHODS[name]()
    method.before_step(tf.constant(0))
    others = [v for v in method.weights if not v.trainable and v.dtype == "float32" and "moving" not in v.path]
    with tf.GradientTape() as tape:
        for variable in others:
            tape.watch(variable.value)
        outcome = method.objective(
            batch(small=name == "swav", size=size_for(method)), step=tf.constant(0), devices=OneDevice()
        )
    trained = method.trainable_variables
    gradients = tape.gradient(outcome.loss, [v.value for v in [*trained, *others]], unconnected_gradients="none")
    missing = [v.path for v, g in zip(trained, gradients[: len(trained)], strict=True) if g is None]
    assert not missing
    leaks = [v.path for v, g in zip(others, gradients[len(trained) :], strict=True) if g is not None]
    assert not leaks
    assert not any(v.path.startswith("key/") or "queue" in v.path for v in trained)
    assert bool(others) == (name in WITH_KEYS or name == "swav")
    assert np.isfinite(float(outcome.loss)) and "spread" in outcome.values
    assert all(np.isfinite(float(value)) for value in outcome.values.values())


@pytest.mark.parametrize("name", METHODS)
def test_the_backbones_weights_have_the_paths_of_a_segmentor_and_no_path_is_twice(name: str) -> None:
    method = METHODS[name]()
    paths = [variable.path for variable in method.weights]
    assert len(set(paths)) == len(paths)
    assert {variable.path for variable in backbone().weights} <= set(paths)
    assert {v.path for v in method.backbone.trainable_variables} <= {v.path for v in method.trainable_variables}


@pytest.mark.parametrize("name", METHODS)
def test_some_steps_of_descent_lower_the_loss(name: str) -> None:
    method = METHODS[name](**({"queue_size": 0} if name == "swav" else {}))
    optimizer = keras.optimizers.SGD(0.02 if name == "simsiam" else 0.2)
    optimizer.build(method.trainable_variables)
    data, losses = batch(size=size_for(method)), []
    for step in range(6):
        method.before_step(tf.constant(step))
        with tf.GradientTape() as tape:
            outcome = method.objective(data, step=tf.constant(step), devices=OneDevice())
        variables = method.trainable_variables
        gradients = tape.gradient(outcome.loss, [v.value for v in variables])
        optimizer.apply_gradients([(g, v) for g, v in zip(gradients, variables, strict=True)])
        losses.append(float(outcome.loss))  # without `after_step`: the queue stays, so that losses can be compared
    assert min(losses[-2:]) < losses[0] - 0.01


# === What follows ===


@pytest.mark.parametrize("name", WITH_KEYS)
def test_the_key_encoder_starts_equal_and_follows_by_its_schedule_exactly(name: str) -> None:
    method = METHODS[name]()
    leaders = {v.path: v for v in method.encoder.trainable_variables}
    followers = {v.path.removeprefix("key/"): v for v in method.key_encoder.weights if v.path[4:] in leaders}
    assert followers.keys() == leaders.keys()
    for path, leader in leaders.items():
        np.testing.assert_array_equal(followers[path], leader, err_msg=path)
    before = {path: leader.numpy().astype(np.float64) for path, leader in leaders.items()}
    for leader in leaders.values():
        leader.assign(leader.value + 1.0)
    expected = before
    for step in (3, 4):
        method.before_step(tf.constant(step))
        scheduled = name in ("pixpro", "moco_byol")
        m = 1 - float(cosine_rate(step, 10, 0.99)) if scheduled else 0.9
        expected = {path: m * value + (1 - m) * (before[path] + 1.0) for path, value in expected.items()}
    for path, value in expected.items():
        np.testing.assert_allclose(followers[path], value, atol=1e-6, err_msg=path)
        assert not np.allclose(followers[path], leaders[path]), path
    method.restart()
    for path, leader in leaders.items():
        np.testing.assert_array_equal(followers[path], leader, err_msg=path)


@pytest.mark.parametrize("name", ["moco_v2", "densecl"])
def test_key_bn_with_running_statistics_follows_them_too(name: str) -> None:
    method = METHODS[name](key_bn="ema_stats")
    mean, own = (
        next(v for v in network.weights if v.path.endswith("stem_conv_bn/moving_mean"))
        for network in (method.encoder, method.key_encoder)
    )
    mean.assign(mean.value + 2.0)
    method.before_step(tf.constant(0))
    np.testing.assert_allclose(own, 0.2, atol=1e-6)
    before = own.numpy()
    method.objective(batch(), step=tf.constant(0), devices=OneDevice())
    np.testing.assert_array_equal(own, before, err_msg="keys are computed in inference mode")
    assert all(layer.splits == 1 for layer in method.key_encoder.layers if isinstance(layer, BatchNorm))


def test_key_bn_in_parts_gives_what_the_parts_give_by_themselves() -> None:
    method = METHODS["moco_v2"]()
    images = batch()["views"][:, 1]
    whole = method.key_encoder(images, training=True)
    for layer in method.key_encoder.layers:
        if isinstance(layer, BatchNorm):
            layer.splits = 1
    parts = [method.key_encoder(images[i : i + 2], training=True) for i in (0, 2)]
    np.testing.assert_allclose(whole, ops.concatenate(parts, axis=0), atol=1e-4)
    together = method.key_encoder(images, training=True)
    assert not np.allclose(whole, together, atol=1e-3)


# === What is remembered ===


@pytest.mark.parametrize("name", WITH_QUEUE)
def test_keys_are_enqueued_after_the_loss_was_computed(name: str) -> None:
    method = METHODS[name]()
    count = 4 * WITH_QUEUE[name]
    start = method.queue.keys.numpy()
    np.testing.assert_allclose(np.linalg.norm(start, axis=1), 1.0, atol=1e-5)
    first = step_of(method)
    np.testing.assert_allclose(method.queue.keys[:count], first.memory["keys"], atol=1e-7)
    np.testing.assert_array_equal(method.queue.keys[count:], start[count:])
    assert int(method.queue.pointer) == count
    for step in range(1, 16 // count + 1):
        last = step_of(method, step)
    assert int(method.queue.pointer) == count, "the ring has come round"
    np.testing.assert_allclose(method.queue.keys[:count], last.memory["keys"], atol=1e-7)


def test_a_queue_is_a_ring() -> None:
    queue = Queue(6, 2, name="q")
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    for i in range(5):
        queue.push(tf.constant(rows[2 * i : 2 * i + 2]))
    np.testing.assert_array_equal(queue.keys, rows[[6, 7, 8, 9, 4, 5]])
    assert int(queue.pointer) == 4
    queue.push(tf.constant(rows[:2]), when=tf.constant(False))
    np.testing.assert_array_equal(queue.keys, rows[[6, 7, 8, 9, 4, 5]])
    assert int(queue.pointer) == 4
    assert [variable.path for variable in queue.weights] == ["q/keys", "q/pointer"]


def test_an_empty_queue_says_when_it_is_full() -> None:
    queue = Queue(4, 2, empty=True, name="q")
    seen = []
    for _ in range(2):
        seen.append(bool(queue.full()))
        queue.push(tf.ones((2, 2)))
    assert seen == [False, False] and bool(queue.full())


@pytest.mark.parametrize(("size", "batch_size", "keys"), [(16, 6, 1), (16, 16, 2), (65536, 48, 1)])
def test_a_batch_that_does_not_divide_the_queue(size: int, batch_size: int, keys: int) -> None:
    with pytest.raises(ConfigError, match=rf"queue_size is {size}, which a batch of {batch_size} samples.* Set it to"):
        check_queue(size, batch_size, keys_per_sample=keys)
    check_queue(2 * batch_size * keys, batch_size, keys_per_sample=keys)


# === What is particular ===


def test_swav_normalises_its_prototypes_and_freezes_them_at_first() -> None:
    method = METHODS["swav"](freeze_prototypes_steps=2, queue_size=0)
    method.prototypes.assign(3.0 * method.prototypes.value)
    for step, frozen in ((0, True), (1, True), (2, False)):
        method.before_step(tf.constant(step))
        np.testing.assert_allclose(np.linalg.norm(method.prototypes, axis=0), 1.0, atol=1e-6)
        with tf.GradientTape() as tape:
            outcome = method.objective(batch(small=True), step=tf.constant(step), devices=OneDevice())
        gradient = np.array(tape.gradient(outcome.loss, method.prototypes.value))
        assert (np.abs(gradient).max() == 0) == frozen


def test_swav_uses_its_queues_once_they_are_open_and_full() -> None:
    """The loss differs from the one without queues from the step on at which they are full."""
    losses = {}
    for start in (1, 99):
        keras.utils.set_random_seed(1)
        method = METHODS["swav"](queue_start_step=start)
        losses[start] = [float(step_of(method, step).loss) for step in range(4)]
        assert [int(queue.pointer) for queue in method.queues] == ([4, 4] if start == 1 else [0, 0])
    np.testing.assert_allclose(losses[1][:3], losses[99][:3], rtol=1e-5)
    assert abs(losses[1][3] - losses[99][3]) > 1e-6


def test_swav_takes_the_batch_statistics_of_each_resolution_by_itself() -> None:
    method = METHODS["swav"](queue_size=0)
    outcome = step_of(method, small=True)
    plain = step_of(METHODS["swav"](queue_size=0))
    assert float(outcome.loss) != pytest.approx(float(plain.loss)), "small views predict too"
    assert 0 < float(outcome.values["usage"]) <= 1


def test_densecl_can_begin_with_images_alone() -> None:
    warm = step_of(METHODS["densecl"](dense_warmup_steps=1))
    assert float(warm.loss) == pytest.approx(float(warm.values["loss_image"]))
    both = step_of(METHODS["densecl"]())
    mean = 0.5 * float(both.values["loss_image"]) + 0.5 * float(both.values["loss_cells"])
    assert float(both.loss) == pytest.approx(mean, rel=1e-5)


def test_densecl_remembers_one_vector_of_all_cells() -> None:
    method = METHODS["densecl"]()
    outcome = step_of(method)
    assert outcome.memory["dense_keys"].shape == (4, 6)
    np.testing.assert_allclose(np.linalg.norm(outcome.memory["dense_keys"], axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(method.dense_queue.keys[:4], outcome.memory["dense_keys"], atol=1e-7)


def test_simsiams_last_normalisation_has_nothing_to_learn_and_blocks_begin_as_identities() -> None:
    method = METHODS["simsiam"]()
    learnt = {v.path for v in method.trainable_variables}
    assert "projector_fc2_bn/gamma" in learnt and not any(path.startswith("projector_fc3_bn") for path in learnt)
    assert method.constant_rate_paths == ("predictor_",)
    gammas = {v.path: v.numpy() for v in method.backbone.weights if v.path.endswith("gamma")}
    zero = {path for path, value in gammas.items() if (value == 0).all()}
    assert zero == {f"stage{i}_block1_conv2_bn/gamma" for i in (1, 2, 3, 4)}
    plain = METHODS["simsiam"](zero_init_residual=False, constant_predictor_lr=False)
    assert plain.constant_rate_paths == ()
    assert all((v.numpy() == 1).all() for v in plain.backbone.weights if v.path.endswith("gamma"))


def test_zero_init_needs_residual_blocks() -> None:
    image = keras.Input((8, 8, 3))
    with pytest.raises(ConfigError, match="needs the residual blocks of a ResNet; backbone 'flat' has none"):
        zero_init_residual(keras.Model(image, {"c2": keras.layers.Conv2D(2, 1)(image)}, name="flat"))


def test_pixpro_without_its_instance_branch_builds_nothing_for_it() -> None:
    method = METHODS["pixpro"](instance_weight=0.0)
    assert not any("instance" in v.path for v in method.weights)
    outcome = step_of(method)
    assert -4 <= float(outcome.loss) <= 4
    assert float(outcome.values["positives"]) > 0


def test_any_backbone_will_do() -> None:
    method = MoCoV2(
        lambda: resnet_vd((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=False), dim=4, queue_size=8, key_bn="ema_stats"
    )
    assert np.isfinite(float(step_of(method).loss))


def test_a_backbone_without_features_is_refused() -> None:
    image = keras.Input((8, 8, 3))
    with pytest.raises(ConfigError, match="needs features named c2 to c5; backbone 'odd' has none"):
        SimSiam(lambda: keras.Model(image, {"x": image}, name="odd"), zero_init_residual=False)
