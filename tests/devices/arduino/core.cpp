#include "Arduino.h"

SerialPort Serial;

/* Timer 1 with a clock of 2 MHz counts half microseconds; up to 32 ms */
unsigned long micros()
{
    return TCNT1 / 2;
}

void delay(unsigned long)
{
    while (!(UCSR0A & _BV(UDRE0))) {
    }
    cli();
    sleep_enable();
    sleep_cpu(); /* a simulator ends the program here */
}

int main()
{
    TCCR1B = _BV(CS11);
    setup();
    for (;;) loop();
}
