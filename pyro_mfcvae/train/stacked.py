"""Several trainings of one configuration that take their steps together, with one program over stacked tensors."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.compilation import Named, Program, call, compile_whole, first_line, trace
from pyro_mfcvae.infer.schedule import WrittenWeights
from pyro_mfcvae.interop.param_store import outside_store
from pyro_mfcvae.train.captured import capture
from pyro_mfcvae.train.devices import RandomState
from pyro_mfcvae.train.optimizer import make_adam, set_learning_rate
from pyro_mfcvae.train.step_log import EpochRecord, StepLog
from pyro_mfcvae.train.training import Training


class StackedTraining:
    """S trainings of one configuration with different seeds, which take every step together.

    The objective of one training is traced together with its gradient. The operations are batched over the models, with
    parameters and buffers (S, …), and one fused Adam updates all. Everything else (fits of mixtures, order of the
    items, records) is done for each training separately. Each training draws random numbers from its own state, in the
    same order as a separate training, so it differs from that only by rounding.

    The tensors of the trainings become slices of the stacks. So between two epochs each training is complete and can be
    saved or continued alone. A training that diverges does not affect the others.

    Args:
        trainings: the trainings, all at the same epoch and on one device.
        states: their random states.

    Raises:
        InputError: the objective cannot be traced, or its random draws depend on parameters or data.
    """

    def __init__(self, trainings: Sequence[Training], states: Sequence[RandomState]) -> None:
        first = trainings[0]
        self.trainings = tuple(trainings)
        self._states = tuple(states)
        self._parameters: dict[str, nn.Parameter] = {
            name: nn.Parameter(torch.stack([p[name].detach() for p in map(_parameters, trainings)]))
            for name in _parameters(first)
        }
        self._buffers: Named = {
            name: torch.stack([b[name] for b in map(_buffers, trainings)]) for name in _buffers(first)
        }
        self._values: Named = {name: stack.detach() for name, stack in self._parameters.items()}
        self._adopt()
        names = {id(buffer): name for name, buffer in _buffers(first).items()}
        self._alpha, self._beta = (self._buffers[names[id(w)]] for w in (first.pair.model.alpha, first.pair.model.beta))
        self._weights = WrittenWeights(first.schedule)
        self._log = StepLog((len(trainings), 2 + first.pair.num_facets), first.fabric.device)
        self._learning_rate = first.learning_rate
        self._optimizer = make_adam(
            self._parameters.values(),
            learning_rate=self._learning_rate,
            device=first.fabric.device,
            captured=first.captures,
        )
        self._captured = capture(first.fabric.device, watches=False) if first.captures else None
        self._stack_moments()
        self._draw, self._drawn_on, self._program = self._batch_objective()
        self.failures: dict[int, InputError] = {}

    def run_epoch(self, on_step: Callable[[], None] | None = None) -> list[EpochRecord | InputError]:
        """Train one more epoch. Returns the record of every training, or the error that ended it.

        ``on_step`` is called after every step. If it raises an error, every training stays in the state after that
        step.
        """
        with outside_store():  # see Training.run_epoch
            batches = [self._in_turn(s, training.start_epoch) for s, training in enumerate(self.trainings)]
            self._adopt()
            self._weights.forget()
            try:
                for xs in zip(*batches, strict=True):
                    self._step(torch.stack(xs))
                    if on_step is not None:
                        on_step()
                    if len(self.failures) == len(self.trainings):
                        break
            finally:
                self._read_steps()
                self._hand_back_moments()
            return [self._finish(s) for s in range(len(self.trainings))]

    def _finish(self, s: int) -> EpochRecord | InputError:
        if s not in self.failures:
            with self._failure_kept(s):
                record: EpochRecord = self._in_turn(s, self.trainings[s].finish_epoch)
                return record
        return self.failures[s]

    def _in_turn(self, s: int, act: Callable[[], Any]) -> Any:
        with self._states[s].in_turn():
            return act()

    def _left(self) -> list[int]:
        """The indices of the trainings that still run."""
        return [s for s in range(len(self.trainings)) if s not in self.failures]

    @contextmanager
    def _failure_kept(self, s: int) -> Iterator[None]:
        """Context that records an error of a training, so that the other trainings continue."""
        try:
            yield
        except InputError as error:
            self.failures[s] = error

    def _step(self, xs: Tensor) -> None:
        if left := self._left():
            self._prepare_step(self.trainings[left[0]])
        if not (left := self._left()):
            return
        draws = RandomState.each_in_turn(self._states, self._draw, kinds=self._drawn_on)
        noise = [torch.stack(drawn) for drawn in zip(*draws, strict=True)]
        inputs = (xs, *noise)
        self._log.add(self._captured(self._take_step, *inputs) if self._captured else self._take_step(*inputs))
        for s in left:
            self.trainings[s].steps_taken += 1
        if self._log.is_full:
            self._read_steps()

    def _prepare_step(self, lead: Training) -> None:
        """Prepare a step of all trainings. A training does this separately only if parameters are set or fitted
        before the step.
        """
        self._weights.write(self._alpha, self._beta, lead.step)
        if lead.due_fits():
            self._read_steps()  # a fit fails if the encoder has diverged
            fitted: list[nn.Parameter] = []
            for s in self._left():
                with self._failure_kept(s):
                    fitted = self._in_turn(s, self.trainings[s].prepare_step)
                    lead = self.trainings[s]
            self._adopt()
            if fitted:
                self._forget_moments(lead, fitted)
        if (rate := lead.learning_rate) != self._learning_rate:
            set_learning_rate(self._optimizer, rate)
            self._learning_rate = rate

    def _forget_moments(self, training: Training, fitted: list[nn.Parameter]) -> None:
        """Reset Adam's moments of the fitted parameters, which are the same parameters in all trainings."""
        for name, parameter in _parameters(training).items():
            if any(parameter is other for other in fitted):
                self._optimizer.state.pop(self._parameters[name], None)
        if self._captured is not None:
            self._captured.forget()

    def _read_steps(self) -> None:
        """Give every training the terms of its steps since the last read."""
        rows = self._log.read()
        for s in self._left():
            with self._failure_kept(s):
                self.trainings[s].note_terms(rows[:, s])

    def _take_step(self, xs: Tensor, *noise: Tensor) -> Tensor:
        (_, terms), grads = call(self._program, self._values, self._buffers, xs, *noise)
        for stack, grad in zip(self._parameters.values(), grads, strict=True):
            stack.grad = None if grad is None else grad.contiguous()  # in the layout that fused Adam needs
        self._optimizer.step()
        return cast(Tensor, terms)

    def _adopt(self) -> None:
        """Make the tensors of every model slices of the stacks, with their current values."""
        stacks = self._values | self._buffers
        for s, training in enumerate(self.trainings):
            for name, tensor in (*_parameters(training).items(), *_buffers(training).items()):
                part = stacks[name][s]
                if tensor.data_ptr() != part.data_ptr():  # the tensor is new or was replaced
                    part.copy_(tensor.detach())
                    tensor.data = part

    def _stack_moments(self) -> None:
        for name, stack in self._parameters.items():
            states = [training.optimizer.state[_parameters(training)[name]] for training in self.trainings]
            if states[0]:
                moments = {key: torch.stack([state[key] for state in states]) for key in ("exp_avg", "exp_avg_sq")}
                self._optimizer.state[stack] = {"step": states[0]["step"].clone(), **moments}

    def _hand_back_moments(self) -> None:
        for s, training in enumerate(self.trainings):
            set_learning_rate(training.optimizer, self._learning_rate)
            for name, parameter in _parameters(training).items():
                if state := self._optimizer.state.get(self._parameters[name]):
                    moments = {key: state[key][s] for key in ("exp_avg", "exp_avg_sq")}
                    training.optimizer.state[parameter] = {"step": state["step"].clone(), **moments}

    def _batch_objective(self) -> tuple[Callable[[], tuple[Tensor, ...]], set[str], Program]:
        """The program with the random draws of one model, the device types on which it draws, and the program of
        the objective and its gradient for all models.
        """
        first, num = self.trainings[0], len(self.trainings)
        first.pair.train()
        x = first.batches.load(torch.arange(first.batches.batch_size))
        try:
            with first.fabric.autocast():
                draw, rest = _split(trace(first.objective, x))
            with torch.random.fork_rng([x.device] if x.is_cuda else []):
                noise = draw()
            inputs = [torch.stack([tensor] * num) for tensor in (x, *noise)]
            buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}  # batch norm changes the buffers
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # torch warns about operations that it batches by a loop
                # Traced on real values, because tensors without values do not always have the strides of real ones.
                program: Any = make_fx(_batch(rest))(self._values, buffers, *inputs)
        except Exception as error:  # any exception, because anything in a part may fail to be traced or batched
            raise InputError(
                f"expected models that can be trained together, got an error ({first_line(error)}): leave "
                "--together (together=True) out, and every seed trains in a separate process"
            ) from None
        if first.compiles:
            tensors = self._values, self._buffers
            compiled = compile_whole(program, *tensors, *inputs, graphs=not first.captures)
            program = (
                program if compiled is None else compiled
            )  # the truth value of a compiled program may not be defined
        return draw.forward, {tensor.device.type for tensor in noise}, program


def _parameters(training: Training) -> dict[str, nn.Parameter]:
    return dict(training.objective.named_parameters())


def _buffers(training: Training) -> Named:
    return dict(training.objective.named_buffers())


def _split(traced: GraphModule) -> tuple[GraphModule, GraphModule]:
    """Split a program into one that draws all random numbers, and one that takes them as further inputs and
    computes the rest.
    """
    nodes = list(traced.graph.nodes)
    draws, rest = Graph(), Graph()
    fixed: dict[Node, Node] = {}  # operations that depend on no input are part of the draws
    drawn = [node for node in nodes if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())]
    for node in nodes:
        if node.op not in ("placeholder", "output") and all(other in fixed for other in node.all_input_nodes):
            fixed[node] = draws.node_copy(node, fixed.__getitem__)
        elif node in drawn:
            raise InputError(f"{node.target} draws random numbers that depend on parameters or on data")
    draws.output(tuple(fixed[node] for node in drawn))
    draws.eliminate_dead_code()
    kept = {node: rest.node_copy(node) for node in nodes if node.op == "placeholder"}
    kept |= {node: rest.placeholder(f"drawn_{i}") for i, node in enumerate(drawn)}
    for node in nodes:
        if node not in kept:
            kept[node] = rest.node_copy(node, kept.__getitem__)
    return GraphModule(traced, draws), GraphModule(traced, rest)


def _batch(one: GraphModule) -> Program:
    """Turn the program of one model into a program of S models, in which every tensor has an additional first
    dimension.
    """
    (outputs,) = next(node for node in one.graph.nodes if node.op == "output").args
    there = [output is not None for output in cast(Sequence[Any], outputs)]  # a parameter may have no gradient

    def program(parameters: Named, buffers: Named, *inputs: Tensor) -> Any:
        flat = (*parameters.values(), *buffers.values(), *inputs)
        found = iter(vmap(lambda *args: tuple(output for output in one(*args) if output is not None))(*flat))
        outputs = [next(found) if is_there else None for is_there in there]
        num_results = len(outputs) - len(parameters)
        return tuple(outputs[:num_results]), tuple(outputs[num_results:])

    return program
