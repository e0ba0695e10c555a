/* Read images of 64 numbers from 0 to 16 from standard input, and write the group of each.

   cc -std=c99 -O2 -I../arduino/digits digits.c -lm -o digits && ./digits < images.txt */

#include <stdio.h>

#include "digits.h"

int main(void)
{
    digits_input pixels[DIGITS_N_FEATURES];
    unsigned int value;
    int count = 0;
    if (digits_selftest() != 0) {
        fputs("digits: the self-test failed\n", stderr);
        return 2;
    }
    while (scanf("%u", &value) == 1) {
        if (value > 16) {
            fprintf(stderr, "digits: a pixel is %u, and must be from 0 to 16\n", value);
            return 1;
        }
        pixels[count++] = (digits_input)value;
        if (count == DIGITS_N_FEATURES) {
            printf("%d\n", (int)digits_predict(pixels));
            count = 0;
        }
    }
    if (count || !feof(stdin)) {
        fprintf(stderr, "digits: %d numbers after the last image of %d\n", count, DIGITS_N_FEATURES);
        return 1;
    }
    return 0;
}
