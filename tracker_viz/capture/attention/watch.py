"""Read the attention probabilities of every head during a pass, whatever attention the model uses.

``AttentionWatch`` is active during one forward pass and sees the torch functions that are called:

* ``scaled_dot_product_attention``, flex_attention, flash_attn: recomputed in float32;
* a hand-written ``softmax``: taken as it is;
* ``multi_head_attention_forward``: asked to return its weights;
* a product with a matrix [query, key] that never looks ahead: attention where its rows are
  probabilities, however they were made, else a mixing map;
* any other kernel: asked for its matrix (``kernels``).

No module of the model is replaced, so its architecture need not be known.

One call gives one ``AttentionCall``; which block it belongs to follows from the modules that were
running (``ModuleStack``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode

from tracker_viz.capture.attention.call_keeper import CallKeeper
from tracker_viz.capture.attention.calls import AttentionCall, Kind, ModuleStack
from tracker_viz.capture.attention.einsums import mixing_operands
from tracker_viz.capture.attention.flash import flash_call
from tracker_viz.capture.attention.kernels.asker import KernelAsker
from tracker_viz.capture.attention.kernels.asking import Answer
from tracker_viz.capture.attention.kernels.known_kernels import Kernel
from tracker_viz.capture.attention.max_logits import (
    largest,
    largest_of_kernel,
    largest_of_multi_head,
    largest_of_softmax,
)
from tracker_viz.capture.attention.probabilities import (
    attention_logits,
    flex_logits,
    looks_back_only,
    repeated,
    rows_sum_to_one,
    softmaxed,
)
from tracker_viz.capture.tracing.functions import is_matrix_product
from tracker_viz.capture.tracing.parameter_trace import ParameterTrace
from tracker_viz.errors import ProbeError

# As a module calls it, and as an autograd function of somebody's own does.
_SCALED_DOT_PRODUCT = {
    F.scaled_dot_product_attention,
    torch.ops.aten.scaled_dot_product_attention,
    torch.ops.aten.scaled_dot_product_attention.default,
}
_FLASH = ("flash_attn._flash_attn_forward", "flashattn._flash_attn_forward")
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.mul_, Tensor.__imul__}
_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}
# Tensors that may be given by name, in the order in which linear, embedding and the matrix products
# take them.
_OPERANDS = ("input", "mat1", "batch1", "other", "mat2", "batch2", "weight")

# (what enters [..., d_model], weight [vocabulary, d_model], bias or None) -> [..., vocabulary]
Logits = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class AttentionWatch(TorchFunctionMode):
    """Hands every call that mixes the tokens of the whole probe to ``keep``, as an
    ``AttentionCall``, while it is active.

    Args:
        stack: the modules that are running.
        shape: of the probe, (rows, tokens a row).
        keep: takes each call.
        evidence: gathers what the pass tells about the parameters; with it, ``P V`` is also
            compared with what the model's own kernel gave, and indices of embeddings are checked.
            None: only look at attention.
        vocabulary: projections to so many outputs are replaced by ``logits``; None: they are not.
        logits: see ``ProbePass.logits``; without it their result is zeros, because nobody reads the
            logits.
        unanswered: kernels that gave no answer before, and are not asked again.

    Attributes:
        n_as_wide_as_logits: projections to as many outputs as the vocabulary has tokens; counted
            with ``evidence``.
    """

    def __init__(
        self,
        stack: ModuleStack,
        shape: Sequence[int],
        keep: Callable[[AttentionCall], None],
        *,
        evidence: ParameterTrace | None = None,
        vocabulary: int | None = None,
        logits: Logits | None = None,
        unanswered: Collection[tuple[str, str]] = (),
    ) -> None:
        super().__init__()
        self._calls = CallKeeper(stack, shape, keep)
        self.asker = KernelAsker(shape, self._take_answer, self._calls, unanswered)
        self.rejected = self._calls.rejected
        # (tokens, width) of the table that the probe's ids went through
        self.embedding: tuple[int, int] | None = None
        self._stack = stack
        self._n_rows, self._length = shape
        self._evidence = evidence
        self._vocabulary, self._logits = vocabulary, logits or _no_logits
        self.n_as_wide_as_logits, self._n_calls_before_logits = 0, -1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens a row that the model is given now."""
        return self._n_rows, self._length

    @property
    def vocabulary(self) -> int | None:
        """After a pass with ``evidence``, what to give the next: the number of tokens, if all
        projections to as many outputs came last."""
        if self.embedding and self._n_calls_before_logits == self._calls.n_calls:
            return self.embedding[0]
        return None

    def __exit__(self, *error: Any) -> None:
        self._calls.keep_pending()
        super().__exit__(*error)

    def begin_rows(self, n_rows: int) -> None:
        """Expect so many rows from here on: the model is given the probe in parts."""
        self._n_rows = n_rows
        self._calls.begin_rows(n_rows)
        if self._evidence is not None:
            self._evidence.n_rows = n_rows

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.asker.is_quiet:
            output = func(*args, **kwargs)
        else:
            output = self._called(func, args, kwargs)
        if self._evidence is not None and not self.asker.is_asking:
            self._evidence.origins.follow(func, args, kwargs, output, self._stack.names)
        return output

    def _called(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func in _SCALED_DOT_PRODUCT:
            return self._scaled_dot_product(func, *args, **kwargs)
        if func in _SOFTMAX:
            return self._softmax(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(func, args, kwargs)
        if isinstance(func, HigherOrderOperator) and func.name() == "flex_attention":
            return self._flex(func, args, kwargs)
        if isinstance(func, OpOverload | OpOverloadPacket) and str(func).startswith(_FLASH):
            return self._flash(func, *args, **kwargs)
        if isinstance(func, OpOverload | OpOverloadPacket):
            output = func(*args, **kwargs)
            self.asker.ask_operator(func, args, kwargs, output)
            return output
        return self._other(func, args, kwargs)

    def _other(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a function that does not attend by itself, and learn from it."""
        operands = (*args, *(kwargs[name] for name in _OPERANDS if name in kwargs))
        if is_matrix_product(func):
            self._matrix_product(*operands[:2])
        elif func is torch.einsum:
            mixed = mixing_operands(args, self._length)
            if mixed is not None:
                self._matrix_product(*mixed)
        elif func in _PRODUCTS and len(args) > 1:
            self._calls.scale_pending(*args[:2])
        if self._evidence is None:
            # Logits are the largest product of the pass, and few of them are read.
            if func is F.linear and operands[1].shape[0] == self._vocabulary:
                return self._logits(operands[0], operands[1], _bias(args, kwargs))
            return func(*args, **kwargs)

        if func is F.embedding:
            self._check_embedding(*operands[:2])
        elif func is F.linear and self.embedding and operands[1].shape[0] == self.embedding[0]:
            if not self.n_as_wide_as_logits:
                self._n_calls_before_logits = self._calls.n_calls
            self.n_as_wide_as_logits += 1
        output = func(*args, **kwargs)
        self._evidence.saw(func, operands, output, self._stack.names)
        return output

    def _scaled_dot_product(
        self,
        func: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        *rest: Any,
        **options: Any,
    ) -> Any:
        # Dropout is 0 here: some models leave theirs on in evaluation, which would make the probe
        # random.
        output = func(query, key, value, attn_mask, 0.0, *rest, **options)
        if query.shape[-2] != self._length or key.shape[-2] != self._length:
            self._calls.reject("scaled_dot_product_attention", (query.shape[-2], key.shape[-2]))
            return output
        is_causal = options.get("is_causal", False)
        if rest:
            is_causal = rest[0]
        logits = attention_logits(
            query,
            key,
            attn_mask,
            is_causal=bool(is_causal),
            scale=options.get("scale"),
            enable_gqa=options.get("enable_gqa", False),
        )
        probabilities = softmaxed(logits)
        error = self._checked(probabilities, value, output)
        # Without a head axis the call does not tell how many key/value heads there are.
        n_kv_heads = key.shape[-3] if key.ndim > 3 else None
        self._calls.hand_over(
            "scaled_dot_product_attention",
            probabilities,
            n_kv_heads,
            error,
            max_logit=largest(logits),
        )
        return output

    def _softmax(self, func: Any, args: Any, kwargs: Any) -> Any:
        output = func(*args, **kwargs)
        dim = kwargs.get("dim")
        if dim is None and len(args) > 1:
            dim = args[1]
        if not isinstance(output, Tensor) or output.ndim < 3 or dim not in (-1, output.ndim - 1):
            return output
        queries, keys = output.shape[-2:]
        # One more column than keys: an attention sink, whose share belongs to no token.
        if queries != self._length or keys not in (self._length, self._length + 1):
            return output
        pattern = output[..., :queries]
        if not looks_back_only(pattern):
            self._calls.reject("softmax that looks into the future", tuple(output.shape))
        else:
            logits = args[0] if args else kwargs.get("input")
            self._calls.hand_over("softmax", pattern, max_logit=largest_of_softmax(logits, pattern))
        return output

    def _matrix_product(self, left: Any, right: Any) -> None:
        if not isinstance(left, Tensor) or left.ndim < 3:
            return
        if tuple(left.shape[-2:]) != (self._length, self._length):
            return

        here = tuple(self._stack.names)
        latest = self._calls.latest
        if latest is not None and latest[: len(here)] == here:
            # The softmax that made it was seen, here or in a module of its own.
            if self._evidence is not None:
                self._evidence.saw_values(right)
            return
        if not looks_back_only(left):
            return
        if not bool((left < 0).any()) and rows_sum_to_one(left):
            self._calls.hand_over("matmul", left)
        elif not self.asker.is_inside and left.numel() % (self._n_rows * self._length**2) == 0:
            self._calls.hand_over("matmul", left, kind="mixing")

    def _multi_head(self, func: Any, args: Any, kwargs: Any) -> Any:
        asked = dict(kwargs, need_weights=True, average_attn_weights=False)
        mask = kwargs.get("attn_mask")
        if mask is not None and mask.is_floating_point():
            # Asked for weights, torch takes no mask of another dtype.
            asked["attn_mask"] = mask.to(args[0].dtype)
        output, weights = func(*args, **asked)
        if tuple(weights.shape[-2:]) == (self._length, self._length):
            max_logit = largest_of_multi_head(args, kwargs, weights)
            self._calls.hand_over("multi_head_attention", weights, max_logit=max_logit)
        else:
            self._calls.reject("multi_head_attention", tuple(weights.shape[-2:]))
        if not kwargs.get("need_weights", True):
            return output, None
        if kwargs.get("average_attn_weights", True):
            return output, weights.mean(dim=-3)
        return output, weights

    def _check_embedding(self, ids: Tensor, weight: Tensor) -> None:
        # On a GPU an index out of range ends the process's CUDA context: it must be found before
        # the kernel runs.
        n_entries, width = weight.shape
        is_of_probe = ids.shape == (self._n_rows, self._length)
        highest = int(ids.max())
        if highest >= n_entries and is_of_probe and n_entries > self._length:
            raise ProbeError(
                f"the probe holds token id {highest}; the model's vocabulary has {n_entries} tokens"
            )
        if highest >= n_entries:
            # A table of positions.
            raise ProbeError(
                f"the probe has {self._length} tokens a row; {self._calls.here()} holds "
                f"{n_entries}: cut the probe to the model's context"
            )
        if self.embedding is None and is_of_probe:
            self.embedding = (n_entries, width)

    def _flex(self, func: Any, args: Any, kwargs: Any) -> Any:
        query, key, value, score_mod, block_mask, scale = args[:6]
        output = func(*args, **kwargs)
        if query.shape[-2] != self._length or key.shape[-2] != self._length:
            self._calls.reject("flex_attention", (query.shape[-2], key.shape[-2]))
            return output
        score_buffers, mask_buffers = tuple(args[7]), tuple(args[8])
        logits = flex_logits(
            query, key, score_mod, block_mask[-1], scale, score_buffers, mask_buffers
        )
        probabilities = softmaxed(logits)
        mixed = output[0] if isinstance(output, tuple) else output
        error = self._checked(probabilities, value, mixed)
        # Asked for the sum of its exponentials: the model may put a sink into it afterwards.
        pending = mixed if args[6].get("OUTPUT_LOGSUMEXP") else None
        self._calls.hand_over(
            "flex_attention",
            probabilities,
            key.shape[-3],
            error,
            max_logit=largest(logits),
            pending=pending,
        )
        return output

    def _flash(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        call = flash_call(*args, **kwargs)
        if call.query.shape[1] != self._length or call.key.shape[1] != self._length:
            self._calls.reject(str(func), (call.query.shape[1], call.key.shape[1]))
            return func(*args, **kwargs)
        if self._evidence is not None:
            self._evidence.saw_values(call.value.transpose(1, 2))
        logits = call.logits()
        probabilities = softmaxed(logits)
        self._calls.hand_over(
            "flash_attn", probabilities, call.key.shape[2], max_logit=largest(logits)
        )
        return call.outputs(probabilities)

    def _take_answer(self, kernel: Kernel, answer: Answer, arguments: Mapping[str, Any]) -> None:
        if self._evidence is not None:
            self._evidence.saw_values(answer.values)
        kind = _kind_of(answer, kernel)
        max_logit = None
        if kind == "attention":
            max_logit = largest_of_kernel(arguments, answer, self._n_rows, self._length)
        self._calls.hand_over(
            f"{kernel.name} (asked)",
            answer.matrix,
            answer.values.shape[1],
            answer.error,
            kind=kind,
            channels=answer.channels,
            max_logit=max_logit,
        )

    def _checked(self, probabilities: Tensor, value: Tensor, output: Tensor) -> float | None:
        """Return the largest ``|P V - output|``, near 0 if these are the probabilities that the
        model's own kernel used; None without ``evidence``."""
        if self._evidence is None:
            return None
        self._evidence.saw_values(value)
        if value.ndim > 3:
            value = repeated(value, probabilities.shape[-3])
        difference = torch.matmul(probabilities, value.float()) - output.float()
        return float(difference.abs().nan_to_num().max())


def _no_logits(entering: Tensor, weight: Tensor, _bias: Tensor | None) -> Tensor:
    return entering.new_zeros(*entering.shape[:-1], weight.shape[0])


def _bias(args: Any, kwargs: Any) -> Tensor | None:
    """Return the bias of a call of ``F.linear``."""
    return args[2] if len(args) > 2 else kwargs.get("bias")


def _kind_of(answer: Answer, kernel: Kernel) -> Kind:
    matrix = answer.matrix
    # Channels are too many to be heads, even where their rows are probabilities (RWKV-4).
    if answer.channels or bool((matrix < 0).any()):
        return "mixing"
    if kernel.kind.is_softmax or rows_sum_to_one(matrix):
        return "attention"
    return "mixing"
