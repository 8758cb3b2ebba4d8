/* hand.h: an assembler for x86-64 as one writes it by hand, the opponent of `cnp bench emission`.

       hand_load(a, HAND_RAX, HAND_RDI, 8)     one function an instruction: its bytes at once, jumps in their long form
       hand_jl(a, label)                       … and an entry in the list of fix-ups
       hand_link(a, &size)                     which jumps reach with 8 bits; labels become final
       hand_write(a, out)                      the bytes, jumps short where they reach

   Displacements take 0, 1 or 4 bytes. Labels are numbers; one can be bound before every instruction. What goes wrong
   stays in the assembler until it is reset, and hand_link returns it. */

#ifndef HAND_H
#define HAND_H

#include <stddef.h>
#include <stdint.h>

enum hand_status { HAND_OK, HAND_NO_MEMORY, HAND_BAD_REGISTER, HAND_UNBOUND, HAND_BOUND_TWICE, HAND_TOO_LARGE };
enum hand_register {
    HAND_RAX, HAND_RCX, HAND_RDX, HAND_RBX, HAND_RSP, HAND_RBP, HAND_RSI, HAND_RDI,
    HAND_R8, HAND_R9, HAND_R10, HAND_R11, HAND_R12, HAND_R13, HAND_R14, HAND_R15
};

/* A label: where it lies among the long instructions, and how many jumps come before it. */
struct hand_label { uint32_t offset, jumps; };

/* A jump: where its long form begins; its condition, -1 if it has none; bytes that all jumps before it lose; short. */
struct hand_jump { uint32_t offset, label, lost; int8_t condition; uint8_t is_short; };

struct hand {
    uint8_t *code, *at, *limit; /* at: where the next instruction goes */
    struct hand_label *labels;
    struct hand_jump *jumps;
    size_t labels_room, jumps_count, jumps_room;
    uint32_t lost;
    enum hand_status status;
};

void hand_open(struct hand *a);
void hand_close(struct hand *a);
void hand_reset(struct hand *a); /* empty again; its memory stays */

void hand_mov_imm64(struct hand *a, enum hand_register to, uint64_t value);
void hand_load(struct hand *a, enum hand_register to, enum hand_register base, int32_t disp);
void hand_store(struct hand *a, enum hand_register base, int32_t disp, enum hand_register from);
void hand_add(struct hand *a, enum hand_register to, enum hand_register base, int32_t disp);
void hand_sub(struct hand *a, enum hand_register to, enum hand_register base, int32_t disp);
void hand_imul(struct hand *a, enum hand_register to, enum hand_register base, int32_t disp);
void hand_cmp(struct hand *a, enum hand_register first, enum hand_register base, int32_t disp);
void hand_jl(struct hand *a, uint32_t label);
void hand_jmp(struct hand *a, uint32_t label);
void hand_ret(struct hand *a);
void hand_bind(struct hand *a, uint32_t label);

enum hand_status hand_link(struct hand *a, size_t *size);
void hand_write(const struct hand *a, uint8_t *out);
uint32_t hand_offset(const struct hand *a, uint32_t label); /* of a bound label in the linked code */

#endif
