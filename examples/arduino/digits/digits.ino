/* Handwritten digits on an Arduino Uno: one of ten groups, in a few milliseconds.

   digits.h is written by make_digits.py in the folder above. Open this folder in the Arduino IDE, choose the board, and
   look at the serial monitor at 115200 baud. */

#include "digits.h"

/* An image of 8 x 8 pixels from 0 to 16, in flash; those of a sensor would be in RAM. It is a 7 */
static const uint8_t image[DIGITS_N_FEATURES] PROGMEM = {
     0,  0, 12, 16, 16, 12,  0,  0,
     0,  0,  6,  4, 10, 13,  1,  0,
     0,  0,  0,  0, 13,  9,  0,  0,
     0,  0,  5,  9, 16, 16, 12,  0,
     0,  3, 16, 16, 11,  3,  0,  0,
     0,  0,  7, 13,  0,  0,  0,  0,
     0,  0, 11,  8,  0,  0,  0,  0,
     0,  0, 16,  3,  0,  0,  0,  0};

void setup()
{
    Serial.begin(115200);
    Serial.print(F("self-test, 0 if all is well: "));
    Serial.println(digits_selftest());
}

void loop()
{
    digits_input pixels[DIGITS_N_FEATURES];
    memcpy_P(pixels, image, sizeof pixels);
    const unsigned long began = micros();
    const int group = digits_predict(pixels);
    const unsigned long took = micros() - began;
    Serial.print(F("group "));
    Serial.print(group);
    Serial.print(F(" in "));
    Serial.print(took);
    Serial.println(F(" microseconds"));
    delay(1000);
}
