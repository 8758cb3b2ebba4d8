/* The core as one translation unit: `cc -std=c11 -O2 -c cnp_core.c`. Each room uses those above it. */

#include "internal.h"

#include "avx2.c"
#include "tables.c"
#include "choose.c"
#include "program.c"
#include "append.c"
#include "layout.c"
#include "settle.c"
#include "relax.c"
#include "patch.c"
#include "bytecode.c"
#include "recipes.c"
#include "bytecode_tables.c"
