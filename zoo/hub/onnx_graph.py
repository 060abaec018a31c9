"""ONNX graphs of generators: tracing, 16-bit weights, and running one with ONNX Runtime.

The older exporter of torch traces in a second, needs no further package and exists from torch 2.8 on.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.core.errors import ZooError
from zoo.models.base import Generator

OPSET = 17  # that of 2022, which old runtimes know
MIN_HALF_VALUES = 1024  # smaller tensors stay fp32: they take no space
BATCH_DRAWS = ("randn", "randn_like")  # how networks draw noise inputs


def require_onnx(command: str) -> None:
    """Check that the packages of the extra are installed.

    Raises:
        ZooError: one of them is missing.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ZooError(f"{command}: needs the package {' and '.join(missing)}: pip install 'gan-zoo[export]'")


class NoiseMaps(TorchFunctionMode):
    """Records the noise that a network draws, or replaces it by given maps.

    Args:
        maps: what each draw returns, in order; None: normal numbers, as usual.

    Attributes:
        drawn: what was drawn.
    """

    def __init__(self, maps: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.maps = None if maps is None else list(maps)
        self.drawn: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in BATCH_DRAWS:
            return func(*args, **(kwargs or {}))
        values = func(*args, **(kwargs or {})) if self.maps is None else self.maps.pop(0)
        self.drawn.append(values)
        return values


class NetworkPart(nn.Module):
    """A generator, or one of its methods, whose noise is an input: ``noise`` (N, K), the last one if there is any.

    Args:
        generator: on the CPU, in eval mode.
        function: ``generator``, or one of its methods.
        inputs: examples by name, (N, ...) each.

    Attributes:
        inputs: the same, and ``noise`` if the function draws any.
        shapes: of the noise maps of one image.
    """

    def __init__(self, generator: Generator, function: Callable[..., Tensor], inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.generator, self.function = generator, function
        with torch.no_grad(), NoiseMaps() as noise:
            function(*inputs.values())
        self.shapes = [tuple(values.shape[1:]) for values in noise.drawn]
        self.inputs = self.add_noise(inputs)
        self.eval()  # the exporter restores the mode of this module in all its parts

    def add_noise(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return inputs of N images with standard normal ``noise`` (N, K), if the function draws any."""
        if not self.shapes:
            return dict(inputs)
        n, values = len(next(iter(inputs.values()))), sum(math.prod(shape) for shape in self.shapes)
        return {**inputs, "noise": torch.randn(n, values)}

    def forward(self, *inputs: Tensor) -> Tensor:
        if not self.shapes:
            return self.function(*inputs)
        *others, noise = inputs
        parts = noise.split([math.prod(shape) for shape in self.shapes], 1)
        maps = [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        with NoiseMaps(maps):
            return self.function(*others)


def copy_to_cpu(generator: Generator) -> Generator:
    """Return a copy in fp32 on the CPU, in eval mode and without gradients."""
    # The new copy of each parameter, and not the parameter: a caller may move the original meanwhile.
    return copy.deepcopy(generator).to(device="cpu", dtype=torch.float32).eval().requires_grad_(False)


def trace_graph(part: NetworkPart, output: str, notes: Mapping[str, str], *, fp16: bool = False) -> bytes:
    """Return a network as an ONNX file, of any batch size.

    Args:
        output: name of the output.
        notes: metadata of the file.
        fp16: store large weights with 16 bits; the file is half as large, and arithmetic stays fp32.

    Raises:
        ZooError: torch cannot export one of its operations.
    """
    import onnx

    file = io.BytesIO()
    with _silence():
        try:
            torch.onnx.export(
                part,
                tuple(part.inputs.values()),
                file,  # type: ignore[arg-type]
                input_names=list(part.inputs),
                output_names=[output],
                dynamic_axes={name: {0: "n"} for name in (*part.inputs, output)},
                opset_version=OPSET,
                dynamo=False,
            )
        except Exception as error:  # of many kinds, with the operation in the first line
            first = (str(error).splitlines() or [type(error).__name__])[0]
            name = type(part.generator).__name__
            raise ZooError(f"{name}: ONNX cannot express one of its operations ({first})") from None
    model = onnx.load_from_string(file.getvalue())
    for node in model.graph.node:
        node.doc_string = ""  # lines of the source
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    if fp16:
        store_half(model)
    return model.SerializeToString()


def store_half(model: Any) -> None:
    """Store the weights of an ONNX model with 16 bits, in place; the first nodes convert them back.

    Tensors that lose more than rounding (overflow, tiny values among large ones are none) keep their type.
    """
    import onnx
    from onnx import numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < MIN_HALF_VALUES:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        # false for inf; an error relative to the largest weight, since those near 0 add little
        if not bool((np.abs(half.astype(np.float32) - values) <= np.abs(values).max() * 2.0**-11).all()):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def run_graph(graph: bytes, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run an ONNX file with ONNX Runtime on the CPU.

    Raises:
        ZooError: it cannot be run, also not with another batch size than that of tracing.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised; nothing is printed
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(session.run(None, arrays)[0])
    except Exception as error:  # onnxruntime's own kinds share no base
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ZooError(f"ONNX Runtime cannot run the exported network ({first})") from None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide what the exporter says about itself and about tracing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
