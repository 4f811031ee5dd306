"""The tracer as a Tesseract; zopde measures the derivative that others ask it for."""

import torch
from pydantic import BaseModel
from tesseract_core.runtime import Array, Differentiable, Float32, ShapeDType
from tracer import Tracer

import zopde

solver = zopde.differentiable(Tracer(16))
States = Differentiable[Array[(None, 1, 16, 16), Float32]]  # (batch, channel, y, x)


class InputSchema(BaseModel):
    """What the solver starts from."""

    state: States


class OutputSchema(BaseModel):
    """One step later."""

    state: States


def apply(inputs: InputSchema) -> OutputSchema:
    """Make one step."""
    return OutputSchema(state=solver.step(torch.tensor(inputs.state)).numpy())


def vector_jacobian_product(
    inputs: InputSchema, vjp_inputs: set[str], vjp_outputs: set[str], cotangent_vector: dict
) -> dict:
    """The gradient by the state, of which there is one, as there is one output."""
    state = torch.tensor(inputs.state, requires_grad=True)
    solver.step(state).backward(torch.tensor(cotangent_vector["state"]))
    return {"state": state.grad.numpy()}


def abstract_eval(abstract_inputs: BaseModel) -> dict:
    """The shape of the next state."""
    given = abstract_inputs.state
    return {"state": ShapeDType(shape=given.shape, dtype=given.dtype)}
