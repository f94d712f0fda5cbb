// In the spirit of CoreMark, with code of its own: list sorting, small integer matrices, a state machine over text, and a
// checksum that ties them together.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static unsigned checksum(unsigned sum, unsigned value) {
    for (int bit = 0; bit < 16; bit++) {
        unsigned carry = (value ^ sum) & 1;
        sum >>= 1, value >>= 1;
        if (carry)
            sum ^= 0xa001;
    }
    return sum;
}

struct item {
    struct item *next;
    int key, data;
};

typedef int order(const struct item *, const struct item *);
static int by_key(const struct item *a, const struct item *b) { return a->key - b->key; }
static int by_data(const struct item *a, const struct item *b) { return a->data - b->data; }

static struct item *merge(struct item *a, struct item *b, order *compare) {
    struct item first, *last = &first;
    while (a && b) {
        struct item **least = compare(a, b) <= 0 ? &a : &b;
        last->next = *least, last = *least, *least = (*least)->next;
    }
    last->next = a ? a : b;
    return first.next;
}

static __attribute__((noinline)) struct item *sort(struct item *list, order *compare) {
    if (!list || !list->next)
        return list;
    struct item *middle = list, *end = list->next;
    while (end && end->next)
        middle = middle->next, end = end->next->next;
    struct item *rest = middle->next;
    middle->next = 0;
    return merge(sort(list, compare), sort(rest, compare), compare);
}

enum { SIDE = 12 };

static __attribute__((noinline)) unsigned matrices(unsigned seed) {
    static int16_t a[SIDE][SIDE], b[SIDE][SIDE];
    static int32_t c[SIDE][SIDE];
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++)
            seed = seed * 1103515245 + 12345, a[i][j] = (int16_t)(seed >> 16), b[i][j] = (int16_t)(seed >> 20);
    unsigned sum = 0;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            uint32_t total = 0;
            for (int k = 0; k < SIDE; k++)
                total += (uint32_t)(a[i][k] * b[k][j]);
            c[i][j] = (int32_t)total;
            sum = (sum << 1 | sum >> 31) ^ (total >> 3);
        }
    return sum + (unsigned)c[3][5];
}

enum state { START, SIGN, INTEGER, FRACTION, EXPONENT, EXPONENT_SIGN, SCIENTIFIC, INVALID, STATES };

static int is_digit(char c) { return c >= '0' && c <= '9'; }

static __attribute__((noinline)) enum state scan(const char *text, int seen[STATES]) {
    enum state state = START;
    for (; *text; text++) {
        char c = *text;
        if (c == ',') {
            seen[state]++, state = START;
            continue;
        }
        switch (state) {
        case START: state = is_digit(c) ? INTEGER : c == '+' || c == '-' ? SIGN : c == '.' ? FRACTION : INVALID; break;
        case SIGN: state = is_digit(c) ? INTEGER : c == '.' ? FRACTION : INVALID; break;
        case INTEGER: state = is_digit(c) ? INTEGER : c == '.' ? FRACTION : INVALID; break;
        case FRACTION: state = is_digit(c) ? FRACTION : c == 'e' || c == 'E' ? EXPONENT : INVALID; break;
        case EXPONENT: state = c == '+' || c == '-' ? EXPONENT_SIGN : INVALID; break;
        case EXPONENT_SIGN: state = is_digit(c) ? SCIENTIFIC : INVALID; break;
        case SCIENTIFIC: state = is_digit(c) ? SCIENTIFIC : INVALID; break;
        default: break;
        }
    }
    return state;
}

static const char TEXT[] =
    "5012,1234,-874,+122,35.54400,.1234500,-110.700,+0.64400,5.500e+3,-.123e-2,-87e+832,+0.6e-12,T0.3e-1F,-T.T++Tq,1T3.4e4z,34.0e-T^";

int main(int count, char **arguments) {
    enum { ITEMS = 512 };
    int rounds = count > 1 ? atoi(arguments[1]) : 100;
    static struct item items[ITEMS];
    int seen[STATES] = {0};
    unsigned sum = 1, seed = 12345;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < ITEMS; i++) {
            seed = seed * 1103515245 + 12345;
            items[i] = (struct item){i + 1 < ITEMS ? &items[i + 1] : 0, (int)(seed >> 16 & 0x7fff), i};
        }
        struct item *list = sort(items, by_key);
        int place = 0;
        for (struct item *item = list; item; item = item->next)
            if (place++ % 8 == 0)
                sum = checksum(sum, (unsigned)item->key);
        sum = checksum(sum, (unsigned)sort(list, by_data)->key);
        sum = checksum(sum, matrices(seed));
        sum = checksum(sum, scan(TEXT, seen));
    }
    printf("%u %d\n", sum, seen[INTEGER]);
}
