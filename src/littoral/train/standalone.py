"""A small network that does not adapt becomes one ONNX graph with its weights in it."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from littoral.train.export import IR_VERSION, MAX_BATCH, OPSET, quiet_exporter, strip_notes


def export_standalone(
    module: nn.Module, example: Tensor, *, input_name: str, output_name: str, what: str
) -> onnx.ModelProto:
    """Trace a module of one input and one output; the batch is free.

    Args:
        module: On the CPU, in eval mode.
        example: A batch of two: a batch of one would be taken for a constant.
        what: What it is, for messages: ``the encoder``.
    Raises:
        ValueError: it cannot be traced (the cause is chained).
    """
    with quiet_exporter(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                optimize=True,
                verbose=False,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=MAX_BATCH)},),
                input_names=[input_name],
                output_names=[output_name],
            )
        except Exception as error:  # whatever a user's module raises under the tracer
            reason = str(error.__cause__ or error).strip().splitlines()
            raise ValueError(
                f"{what} cannot be traced to ONNX: {reason[0] if reason else type(error).__name__}; its forward "
                "must not branch on values or on the batch size. The cause above says where"
            ) from error
    assert program is not None
    graph = program.model_proto
    strip_notes(graph)
    graph.ir_version = IR_VERSION
    onnx.checker.check_model(graph)
    return graph
