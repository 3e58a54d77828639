"""`python -m vllm_mtp.cli`."""

from vllm_mtp.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
