"""Build the stencil files and host programs from a plain checkout: python build_stencils.py --target all (see --help)."""

from cnp.build.command import main

if __name__ == "__main__":
    raise SystemExit(main())
