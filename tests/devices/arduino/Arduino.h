/* What the sketches of the examples use of the Arduino core, for an ATmega328P of 16 MHz: the serial port, the clock, and
   strings in flash. delay() ends the program, so that a simulator stops after one turn of loop(). */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/pgmspace.h>
#include <avr/sleep.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

class __FlashStringHelper;
#define F(text) (reinterpret_cast<const __FlashStringHelper *>(PSTR(text)))

class SerialPort
{
public:
    void begin(unsigned long baud)
    {
        UBRR0 = F_CPU / 8 / baud - 1;
        UCSR0A = _BV(U2X0);
        UCSR0B = _BV(TXEN0);
    }
    void write(char letter)
    {
        while (!(UCSR0A & _BV(UDRE0))) {
        }
        UDR0 = letter;
    }
    void print(const __FlashStringHelper *text)
    {
        const char *at = reinterpret_cast<const char *>(text);
        for (char letter = pgm_read_byte(at); letter; letter = pgm_read_byte(++at)) write(letter);
    }
    void print(long value)
    {
        char digits[12];
        for (const char *at = ltoa(value, digits, 10); *at; at++) write(*at);
    }
    void print(unsigned long value) { print((long)value); }
    void print(int value) { print((long)value); }
    template <class Value> void println(Value value)
    {
        print(value);
        write('\r');
        write('\n');
    }
};

extern SerialPort Serial;

unsigned long micros();
void delay(unsigned long milliseconds);
void setup();
void loop();

#endif
