/* Run a program for the ATmega328P on rows, one after another, and count the cycles of each prediction.

   simulate_avr PROGRAM.bin ROWS RESULTS row_address row_bytes results_address results_bytes free_address n_rows

   The program is an image of the flash. It writes 1 to GPIOR0 for the next row, which is copied into its RAM; 1 and 2 to
   GPIOR1 before and after the call that is measured; and 2 to GPIOR0 when its results are in place. The first of its
   calls is of an empty function, and its cycles are subtracted from the others. Free RAM, from free_address to the stack
   pointer, is painted before each call, and searched from its start afterwards.
   Prints the cycles of each row, then the largest stack in bytes, that of the call included. */
#include <simavr/sim_avr.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { GPIOR0 = 0x3e, GPIOR1 = 0x4a };

static FILE *rows, *results;
static unsigned row_address, row_bytes, results_address, results_bytes, free_address;
static long n_rows, row_number = -1; /* -1 is the empty call */
static avr_cycle_count_t began, overhead;
static unsigned stack_pointer, deepest;
static int finished, failed;

static void fail(const char *message)
{
    fprintf(stderr, "simulate_avr: %s (row %ld)\n", message, row_number);
    failed = 1;
}

/* A pattern that does not repeat with the addresses of a table */
static uint8_t paint(unsigned address)
{
    return (uint8_t)((address * 2654435761u) >> 13);
}

static void on_row(struct avr_t *avr, avr_io_addr_t address, uint8_t value, void *parameter)
{
    (void)parameter;
    avr->data[address] = value;
    if (value == 2) {
        if (fwrite(avr->data + results_address, 1, results_bytes, results) != results_bytes) fail("results are not written");
    } else if (row_number >= n_rows) {
        finished = 1;
    } else if (fread(avr->data + row_address, 1, row_bytes, rows) != row_bytes) {
        fail("rows end early");
    }
}

static void on_call(struct avr_t *avr, avr_io_addr_t address, uint8_t value, void *parameter)
{
    (void)parameter;
    avr->data[address] = value;
    if (value == 1) {
        stack_pointer = avr->data[R_SPL] | (unsigned)avr->data[R_SPH] << 8;
        for (unsigned byte = free_address; byte <= stack_pointer; byte++) avr->data[byte] = paint(byte);
        began = avr->cycle;
        return;
    }
    avr_cycle_count_t cycles = avr->cycle - began;
    if (row_number++ < 0) {
        overhead = cycles;
        return;
    }
    printf("%llu\n", (unsigned long long)(cycles - overhead));
    unsigned lowest = free_address;
    while (lowest <= stack_pointer && avr->data[lowest] == paint(lowest)) lowest++;
    if (lowest == free_address) fail("the stack has reached the variables");
    if (stack_pointer + 1 - lowest > deepest) deepest = stack_pointer + 1 - lowest;
}

int main(int argc, char **argv)
{
    if (argc != 10) return 2;
    FILE *program = fopen(argv[1], "rb");
    rows = fopen(argv[2], "rb");
    results = fopen(argv[3], "wb");
    if (!program || !rows || !results) return 2;
    row_address = (unsigned)atoi(argv[4]);
    row_bytes = (unsigned)atoi(argv[5]);
    results_address = (unsigned)atoi(argv[6]);
    results_bytes = (unsigned)atoi(argv[7]);
    free_address = (unsigned)atoi(argv[8]);
    n_rows = atol(argv[9]);
    avr_t *avr = avr_make_mcu_by_name("atmega328p");
    if (!avr) return 2;
    avr_init(avr);
    avr->frequency = 16000000;
    static uint8_t flash[32768];
    uint32_t size = (uint32_t)fread(flash, 1, sizeof flash, program);
    if (fgetc(program) != EOF) {
        fprintf(stderr, "simulate_avr: the program is larger than the flash\n");
        return 2;
    }
    avr_loadcode(avr, flash, size, 0);
    avr->codeend = size;
    avr_register_io_write(avr, GPIOR0, on_row, NULL);
    avr_register_io_write(avr, GPIOR1, on_call, NULL);
    while (!finished && !failed) {
        int state = avr_run(avr);
        if (state == cpu_Done || state == cpu_Crashed) fail("the program has stopped");
    }
    if (fclose(results)) fail("results are not written");
    printf("%u\n", deepest);
    return failed;
}
