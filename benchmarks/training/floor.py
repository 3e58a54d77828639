"""The arithmetic that a step of training cannot do without: multiplications and additions of its matrix products."""

# Shapes: N positions, D hidden size, V vocabulary, J draft vocabulary, K draft steps, m x n a matrix of the module.

from collections.abc import Iterable

_NEWTON_SCHULZ_STEPS = 5


def of_weights(num_positions: int, num_weights: int) -> int:
    """A pass over weights that every position is multiplied with."""
    return 2 * num_positions * num_weights


def of_attention(num_rows: int, length: int, num_heads: int, head_dim: int) -> int:
    """Scores and sums of causal attention over rows of one length."""
    return 2 * num_rows * length * length * num_heads * head_dim


def of_teacher(num_positions: int, hidden_size: int, vocab_size: int) -> int:
    """Logits of the teacher, and its mean row of the head."""
    return 4 * num_positions * hidden_size * vocab_size


def of_loss(num_positions: int, hidden_size: int, draft_size: int, num_steps: int) -> int:
    """Logits of the drafter, and the gradient of its states, at every draft step."""
    return 4 * num_positions * hidden_size * draft_size * num_steps


def of_muon(shapes: Iterable[tuple[int, int]]) -> int:
    """Newton-Schulz iterations of every matrix: A = X X^T, B = b A + c A A, X = a X + B X."""
    total = 0
    for size in shapes:
        m, n = sorted(size)
        total += _NEWTON_SCHULZ_STEPS * (2 * m * m * n + 2 * m * m * m + 2 * m * m * n)
    return total
