"""Makes docs/model_zoo.md, and configs/figures.json for `rsseg-tf config list`.

    python docs/make_model_zoo.py            # both, from docs/model_zoo.json
    python docs/make_model_zoo.py --measure  # parameters and operations first, which builds every model

The tables of the benchmark (config, published score, address of the weights) are written down here; parameters and
operations are counted on our models.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NUMBERS, PAGE = HERE / "model_zoo.json", HERE / "model_zoo.md"
FIGURES = HERE.parent / "configs" / "figures.json"
SIDE = 512
WEIGHTS = "https://paddleseg.bj.bcebos.com/dygraph"

# Config -> mIoU in percent as published. The weights lie under the config's name.
BASELINES = {
    "iSAID": {
        "danet/danet_resnet50_isaid_512x512_80k": 37.30,
        "danet/danet_resnet50_vd_isaid_512x512_80k": 64.56,
        "deeplabv3p/deeplabv3p_resnet50_isaid_512x512_80k": 62.59,
        "deeplabv3p/deeplabv3p_resnet50_vd_isaid_512x512_80k": 65.46,
        "fcn/fcn_hrnet_w18_isaid_512x512_80k": 64.73,
        "fcn/fcn_resnet50_isaid_512x512_80k": 52.12,
        "hrnet/hrnet_w48_isaid_512x512_80k": 67.31,
        "pspnet/pspnet_resnet50_vd_isaid_512x512_80k": 63.36,
        "upernet/upernet_resnet50_isaid_512x512_80k": 64.10,
    },
    "ISPRS Potsdam": {
        "deeplabv3p/deeplabv3p_resnet50_vd_potsdam_512x512_80k": 77.93,
        "fcn/fcn_hrnet_w18_potsdam_512x512_80k": 78.13,
        "hrnet/hrnet_w48_potsdam_512x512_80k": 78.84,
        "pspnet/pspnet_resnet50_vd_potsdam_512x512_80k": 77.69,
        "upernet/upernet_resnet50_potsdam_512x512_80k": 77.59,
    },
    "ISPRS Vaihingen": {
        "deeplabv3p/deeplabv3p_resnet50_vd_vaihingen_512x512_80k": 74.08,
        "fcn/fcn_hrnet_w18_vaihingen_512x512_80k": 73.25,
        "hrnet/hrnet_w48_vaihingen_512x512_80k": 74.98,
        "upernet/upernet_resnet50_vd_vaihingen_512x512_80k": 74.31,
    },
}
# All of these have their weights under isaid/ssl, those of Potsdam too.
SELF_SUPERVISED = {
    "ImageNet": {
        "deeplabv3p_densecl_imgnet_resnet50_isaid_512x512": 56.94,
        "deeplabv3p_mocobyol_imgnet_resnet50_isaid_512x512": 57.96,
        "deeplabv3p_pixpro_imgnet_resnet50_isaid_512x512": 62.22,
        "fcn_pixpro_imgnet_resnet50_isaid_512x512": 51.30,
        "ocrnet_pixpro_imgnet_resnet50_isaid_512x512": 41.95,
        "pspnet_pixpro_imgnet_resnet50_isaid_512x512": 50.23,
        "upernet_densecl_imgnet_resnet50_isaid_512x512": 54.22,
        "upernet_mocobyol_imgnet_resnet50_isaid_512x512": 64.36,
        "upernet_pixpro_imgnet_resnet50_isaid_512x512": 64.36,
        "upernet_simsiam_imgnet_resnet50_isaid_512x512": 50.70,
        "upernet_swav_imgnet_resnet50_isaid_512x512": 63.42,
        "upernet_pixpro_imgnet_resnet50_potsdam_512x512": 77.40,
    },
    "Million-AID and DOTA 2.0": {
        "fcn_pixpro_dota_resnet50_isaid_512x512": 41.26,
        "upernet_densecl_millionaid_resnet50_isaid_512x512": 61.67,
        "upernet_mocov2_millionaid_resnet50_isaid_512x512": 55.62,
        "upernet_pixpro_dota_resnet50_isaid_512x512": 59.50,
        "upernet_pixpro_millionaid_resnet50_isaid_512x512": 58.24,
        "upernet_pixpro_millionaid_resnet50_potsdam_512x512": 75.68,
    },
}
# IoU in percent of ship, large vehicle, small vehicle, helicopter, swimming pool, plane, harbor: coarse, then refined.
C2FNET = {
    "deeplabv3p": (
        (64.49, 61.68, 45.77, 33.35, 49.58, 81.65, 53.41),
        (70.37, 65.50, 51.73, 39.04, 48.19, 84.83, 58.13),
    ),
    "fcn": ((69.04, 62.61, 48.75, 23.14, 44.99, 83.35, 58.61), (69.51, 63.60, 51.58, 24.47, 46.19, 84.04, 60.55)),
    "hrnet": ((73.80, 66.61, 54.27, 38.17, 52.19, 85.51, 62.25), (74.32, 67.56, 56.46, 38.89, 52.78, 85.75, 63.70)),
    "pspnet": ((66.74, 62.18, 46.35, 32.59, 47.17, 81.87, 54.72), (67.92, 63.94, 50.63, 33.30, 48.85, 83.72, 56.93)),
}
# Shipped by the original without a published score.
WITHOUT_SCORE = (
    "deeplabv3p/deeplabv3p_resnet50_vd_isaid_896x896_80k",
    "fcn/fcn_resnet50_vd_isaid_512x512_80k",
    "pspnet/pspnet_resnet50_isaid_512x512_80k",
    "pspnet/pspnet_resnet50_vd_vaihingen_512x512_80k",
    "ssl/danet_pixpro_imgnet_resnet50_isaid_512x512",
    "c2fnet/c2fnet_upernet_isaid_512x512_80k",
)
# Ours, for phones and boards: not in the benchmark, hence without a published score.
FOR_DEVICES = (
    "lraspp/lraspp_mobilenet_v3_large_isaid_512x512_80k",
    "lraspp/lraspp_mobilenet_v3_small_isaid_512x512_80k",
    "lraspp/lraspp_mobilenet_v3_large_potsdam_512x512_80k",
    "lraspp/lraspp_mobilenet_v3_large_vaihingen_512x512_80k",
    "lraspp/lraspp_mobilenet_v3_large_loveda_512x512_80k",
    "lraspp/lraspp_mobilenet_v3_large_dubai_512x512_80k",
    "lraspp/lraspp_mobilenet_v3_small_dubai_512x512_80k",
)
# Ours: what people ask for beside the benchmark, on encoders with weights for ImageNet.
SMALL_MODELS = tuple(
    f"{model.split('_')[0]}/{model}_{dataset}_512x512_80k"
    for model in ("unet_efficientnet_lite0", "segformer_mit_b0")
    for dataset in ("isaid", "potsdam", "vaihingen", "loveda", "dubai")
)
# mIoU in percent that training by the config gave, as benchmarks/README.md tells it: on the validation tiles of Dubai,
# and on the synthetic scenes of the quickstart.
MEASURED = {
    "unet/unet_efficientnet_lite0_dubai_256x256_cpu": 55.8,
    "fcn/fcn_hrnet_w18_dubai_256x256_cpu": 38.2,
    "unet/unet_efficientnet_lite0_synthetic_256x256_quick": 77.0,
    "deeplabv3plus/deeplabv3plus_resnet18_vd_synthetic_256x256_quick": 61.1,
}

HEAD = f"""\
# Model zoo

Made by `python docs/make_model_zoo.py`. Scores are those that the
[original](https://github.com/PaddlePaddle/PaddleSeg/tree/develop/contrib/RSSegBenchmark) publishes for its weights,
trained and measured with PaddleSeg; they are not measurements of ours. With the same weights our models give the same
logits ([parity](../benchmarks/parity.md)).

- **Params**: trainable parameters in millions, auxiliary heads included, as in PaddleSeg.
- **GFLOPs**: operations of the output `main` for one image of {SIDE}x{SIDE}, in billions; a multiplication and an
  addition count as two. Convolutions and matrix products are counted.
- **Weights** are addresses: give them to `rsseg-tf convert`, or write them into `model.pretrained`.

What each segmentor loses as SavedModel, ONNX and TFLite, and how fast these are:
[the zoo, exported](../benchmarks/zoo_export.md). What other pairs of segmentor and backbone cost, in training and in
each engine: [what goes with what](pairs.md#what-pairs-cost).
"""
C2FNET_HEAD = """
## C2FNet on iSAID

IoU in percent of the classes of small objects: of the coarse model, and refined. Parameters are those of the fine
model, which learns; operations are those for one window of 128x128. The coarse model's come on top, and how many
windows are looked at depends on the image.

"""
FOR_DEVICES_HEAD = """
## For phones and boards

LR-ASPP on MobileNetV3, which the benchmark does not have: there is no published score. They compute what torchvision's
do, and its weights fit. [Sizes and times](../benchmarks/edge.md) of their TFLite files.

| config | mIoU (%) | Params | GFLOPs |
|---|---|---|---|
"""
SMALL_MODELS_HEAD = """
## Small U-Nets and SegFormers

U-Net on EfficientNet-Lite0 and SegFormer-B0, which the benchmark does not have: there is no published score, and nobody
has trained these configs to their end.
[What a recipe of minutes reaches on a CPU](../benchmarks/README.md#quality-on-a-small-data-set) is measured.

| config | mIoU (%) | Params | GFLOPs |
|---|---|---|---|
"""
SMALL = ("ship", "large vehicle", "small vehicle", "helicopter", "swimming pool", "plane", "harbor")


def every_config() -> list[str]:
    """Returns the names of all configs on the page, without `.yml`."""
    names = [name for rows in BASELINES.values() for name in rows]
    names += [f"ssl/{name}" for rows in SELF_SUPERVISED.values() for name in rows]
    names += [f"c2fnet/c2fnet_{name}_isaid_512x512_80k" for name in C2FNET]
    return [*names, *WITHOUT_SCORE, *FOR_DEVICES, *SMALL_MODELS]


def other_configs() -> list[str]:
    """Returns the names of all other shipped configs, without `.yml`."""
    from rsseg_tf.assets import shipped_configs

    on_the_page = set(every_config())
    return [name for name in (one.removesuffix(".yml") for one in shipped_configs()) if name not in on_the_page]


def measure_parameters(name: str) -> dict[str, float]:
    """Returns trainable parameters alone; of a config of pre-training those of the backbone."""
    import keras

    from rsseg_tf.build import build_backbone, build_model
    from rsseg_tf.config import PretrainConfig, load_any_config

    config = load_any_config(f"{name}.yml")
    if isinstance(config, PretrainConfig):
        model = build_backbone(config.backbone, in_channels=config.dataset.spec.bands)
    else:
        model = build_model(config)
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    keras.backend.clear_session()
    return {"parameters": parameters}


def figures(numbers: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Returns what `rsseg-tf config list` shows of each config."""
    published = {name: score for rows in BASELINES.values() for name, score in rows.items()}
    published |= {f"ssl/{name}": score for rows in SELF_SUPERVISED.values() for name, score in rows.items()}
    found = {}
    for name, row in sorted(numbers.items()):
        figure: dict[str, Any] = {"parameters": row["parameters"]}
        for scores, source in ((published, "published"), (MEASURED, "measured")):
            if name in scores:
                figure |= {"miou": scores[name], "miou_source": source}
        found[f"{name}.yml"] = figure
    return found


def measure(name: str) -> dict[str, float]:
    """Returns trainable parameters and operations of a config's model."""
    import keras

    from rsseg_tf import build_model, load_config
    from rsseg_tf.config.zoo import C2FNet

    config = load_config(f"{name}.yml")
    model = build_model(config)
    side = SIDE
    if isinstance(config.model, C2FNet):
        model, side = model.get_layer("refine").fine, config.model.window_size
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    operations = count_operations(keras.Model(model.input, model.output["main"]), side)
    keras.backend.clear_session()
    return {"parameters": parameters, "operations": operations}


def count_operations(model: Any, side: int) -> int:
    """Returns twice the multiply-adds of convolutions and matrix products for one square image."""
    import tensorflow as tf

    image = tf.TensorSpec((1, side, side, model.input_shape[-1]), tf.float32)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    total = 0
    for operation in graph.get_operations():
        shapes = [tuple(tensor.shape) for tensor in operation.inputs]
        match operation.type:
            case "Conv2D":
                total += math.prod(operation.outputs[0].shape) * math.prod(shapes[1][:3])
            case "DepthwiseConv2dNative":
                total += math.prod(operation.outputs[0].shape) * math.prod(shapes[1][:2])
            case "Einsum":
                letters = operation.get_attr("equation").decode().split("->")[0].split(",")
                sizes = {
                    c: n for word, shape in zip(letters, shapes, strict=True) for c, n in zip(word, shape, strict=True)
                }
                total += math.prod(sizes.values())
            case "MatMul" | "BatchMatMulV2":
                total += math.prod(operation.outputs[0].shape) * shapes[0][-1]
    return 2 * int(total)


def page(numbers: dict[str, dict[str, float]]) -> str:
    """Returns the text of the page."""
    text = HEAD
    for dataset, rows in BASELINES.items():
        text += f"\n## {dataset}\n\n" + _table(rows, numbers, lambda name: _folder(name) + "/" + name.split("/")[1])
    for data, rows in SELF_SUPERVISED.items():
        text += f"\n## Pre-trained without labels: {data}\n\n"
        text += _table({f"ssl/{name}": score for name, score in rows.items()}, numbers, lambda name: f"isaid/{name}")
    text += C2FNET_HEAD + f"| config | | {' | '.join(SMALL)} | Params | GFLOPs | weights |\n{'|---' * 12}|\n"
    for name, (coarse, refined) in C2FNET.items():
        config = f"c2fnet/c2fnet_{name}_isaid_512x512_80k"
        text += f"| | coarse | {' | '.join(f'{score:.2f}' for score in coarse)} | | | |\n"
        text += f"| {_link(config)} | refined | {' | '.join(f'{score:.2f}' for score in refined)} | "
        text += f"{_cost(numbers[config])} | "
        text += f"[model]({WEIGHTS}/isaid/c2fnet_{name}_isaid_512x512_80k/model.pdparams) |\n"
    text += "\n## Configs without a published score\n\n| config | Params | GFLOPs |\n|---|---|---|\n"
    text += "".join(f"| {_link(name)} | {_cost(numbers[name])} |\n" for name in WITHOUT_SCORE)
    for head, names in ((FOR_DEVICES_HEAD, FOR_DEVICES), (SMALL_MODELS_HEAD, SMALL_MODELS)):
        text += head + "".join(f"| {_link(name)} | | {_cost(numbers[name])} |\n" for name in names)
    return text


def _table(rows: dict[str, float], numbers: dict[str, dict[str, float]], place: Any) -> str:
    text = "| config | mIoU (%) | Params | GFLOPs | weights |\n|---|---|---|---|---|\n"
    for name, score in rows.items():
        address = f"{WEIGHTS}/{place(name)}/model.pdparams"
        text += f"| {_link(name)} | {score:.2f} | {_cost(numbers[name])} | [model]({address}) |\n"
    return text


def _folder(name: str) -> str:
    return next(dataset for dataset in ("isaid", "potsdam", "vaihingen") if f"_{dataset}_" in name)


def _link(name: str) -> str:
    return f"[{name.split('/')[1]}](../configs/{name}.yml)"


def _cost(numbers: dict[str, float]) -> str:
    return f"{numbers['parameters'] / 1e6:.2f} | {numbers['operations'] / 1e9:.1f}"


def main() -> None:
    """Writes the page."""
    if "--measure" in sys.argv[1:]:
        numbers = {}
        for name in every_config():
            numbers[name] = measure(name)
            print(name, numbers[name], flush=True)
        for name in other_configs():
            numbers[name] = measure_parameters(name)
            print(name, numbers[name], flush=True)
        NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
    numbers = json.loads(NUMBERS.read_text("utf-8"))
    PAGE.write_text(page(numbers), "utf-8")
    FIGURES.write_text(json.dumps(figures(numbers), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
