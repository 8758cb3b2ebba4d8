"""How cnp._core is compiled: C behind cffi in API mode, for the limited API (one wheel for all
Pythons).

setuptools takes it as `cffi_modules=["cnp/_core_build.py:ffibuilder"]`; `python cnp/_core_build.py` compiles
the module in place, for work on the sources.
"""

from __future__ import annotations

import os
import runpy
import shutil
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
CORE = runpy.run_path(str(HERE / "core" / "__init__.py"))  # setuptools runs this before there is a package

DECLARATIONS = """
    int cnp_install(uintptr_t table, uintptr_t main);
    void cnp_run(uintptr_t enter, uintptr_t frame, uintptr_t code);
    uint64_t cnp_poll(void *context);
    uintptr_t cnp_context(void);
    void cnp_raise(uint64_t code);
    uint64_t cnp_stack_left(void);
    int64_t cnp_fork_count(void);
    void cnp_flush(uintptr_t address, size_t size);
    uint64_t cnp_cell_load(uintptr_t address, unsigned width);
    uint64_t cnp_cell_store(uintptr_t address, unsigned width, uint64_t value);
    uint64_t cnp_cell_add(uintptr_t address, unsigned width, uint64_t value);
    uint64_t cnp_cell_compare_exchange(uintptr_t address, unsigned width, uint64_t expected, uint64_t wanted);
    void *cnp_gdb_add(const void *file, size_t size);
    void cnp_gdb_remove(void *added);
"""

#: The memory of the core's libraries and programs.
HEAP = """
    void *cnp_heap(void *context, void *memory, size_t old, size_t size);
"""

#: Operations of an assembler as records.
RECORDS = """
    struct cnp_recorder {
        struct cnp_program *program;
        uintptr_t numbers, sources;
        uintptr_t slot, bank, label, function, cell, table;
        uintptr_t r, f;
        int open;
    };
    size_t cnp_select(const struct cnp_program *program, size_t first, const uint8_t *marked, uint32_t kinds,
                      uint32_t *positions, size_t room);
    size_t cnp_first_impostor(const struct cnp_record *records, size_t count, const uint8_t *functions, size_t labels);
    size_t cnp_odd_blocks(const struct cnp_program *program, struct cnp_block *blocks, size_t room);
"""

#: Several calls of the core as one.
BULK = """
    int cnp_assemble(struct cnp_program *program, uint32_t frame, const void *records, size_t count,
                     const uint32_t *roots, size_t roots_count, size_t *done, struct cnp_needs *needs,
                     struct cnp_evidence *evidence);
    int cnp_emit(struct cnp_program *program, uint64_t base, uint64_t data_base, const uint64_t *imports,
                 const uint64_t *symbols, uintptr_t code, size_t room, uintptr_t data, size_t data_room,
                 uint32_t routine, size_t position, uint64_t *made, struct cnp_evidence *evidence);
    int cnp_compile(struct cnp_program *program, const struct cnp_bytecode *bytecode, struct cnp_translation *job,
                    const struct cnp_number *numbers, size_t numbers_count, uint32_t frame, const void *records,
                    size_t count, const uint32_t *roots, size_t roots_count, struct cnp_needs *needs,
                    struct cnp_evidence *evidence);
"""

SOURCES = ("_core.c", "_record.c", "_bulk.c", "_callable.c", "_debug.c", "_heap.c")

ffibuilder = FFI()
ffibuilder.cdef(DECLARATIONS + CORE["declarations"]() + HEAP + RECORDS + BULK)
# The text goes into the file that cffi writes, which has the same name: an #include would find itself.
ffibuilder.set_source(
    "cnp._core",
    CORE["amalgamated"]()
    + "".join(f'#line 1 "cnp/{name}"\n' + (HERE / name).read_text(encoding="utf-8") for name in SOURCES),
    py_limited_api=True,
    define_macros=[("Py_LIMITED_API", "0x030a0000")],
    libraries=["pthread"],
    extra_compile_args=[
        "-std=gnu11",
        "-O2",
        "-fvisibility=hidden",  # calls of its own go straight
        "-fno-strict-aliasing",  # frames are memory of the generated code's types
        "-Wall",
        "-Wextra",
        "-Wno-missing-field-initializers",  # cffi's own tables
    ],
)


def compile_in_place() -> Path:
    """Compiles the module and puts it beside this file; returns its path."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(ffibuilder.compile(tmpdir=folder))
        place = HERE / built.name
        fresh = place.with_suffix(".new")
        shutil.copyfile(built, fresh)
        os.replace(fresh, place)  # a running process keeps the old one
        return place


if __name__ == "__main__":
    print(compile_in_place())
