// Recursion and loops: search trees, permutations, queens, mutual recursion, a stack that gets deep.

#include <stdio.h>
#include <stdlib.h>

typedef struct Tree {
    struct Tree *left, *right;
    unsigned key, size;
} Tree;

static unsigned state = 12345;

static unsigned any(void) { return state = state * 1664525u + 1013904223u; }

static Tree *insert(Tree *tree, unsigned key) {
    if (!tree) {
        tree = malloc(sizeof *tree);
        if (!tree) abort();
        *tree = (Tree){NULL, NULL, key, 0};
    } else if (key < tree->key) {
        tree->left = insert(tree->left, key);
    } else {
        tree->right = insert(tree->right, key);
    }
    tree->size++;
    return tree;
}

static unsigned walk(Tree *tree, unsigned depth) {
    if (!tree) return depth;
    unsigned left = walk(tree->left, depth + 1), right = walk(tree->right, depth + 1);
    return left > right ? left * 31 + right % 7 : right * 31 + left % 7;
}

static void drop(Tree *tree) {
    if (!tree) return;
    drop(tree->left);
    drop(tree->right);
    free(tree);
}

static int queens(int size, int row, unsigned columns, unsigned up, unsigned down) {
    if (row == size) return 1;
    int found = 0;
    for (int column = 0; column < size; column++) {
        unsigned c = 1u << column, u = 1u << (row + column), d = 1u << (row - column + size);
        if (!(columns & c) && !(up & u) && !(down & d))
            found += queens(size, row + 1, columns | c, up | u, down | d);
    }
    return found;
}

static unsigned long permute(char *letters, int from, int to) {
    if (from == to) {
        unsigned long hash = 5381;
        for (int i = 0; i < to; i++) hash = hash * 33 + (unsigned char)letters[i];
        return hash;
    }
    unsigned long sum = 0;
    for (int i = from; i < to; i++) {
        char letter = letters[from];
        letters[from] = letters[i], letters[i] = letter;
        sum = sum * 3 + permute(letters, from + 1, to);
        letter = letters[from];
        letters[from] = letters[i], letters[i] = letter;
    }
    return sum;
}

static int ackermann(int m, int n) {
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static int is_odd(unsigned n);
static int is_even(unsigned n) { return n == 0 ? 1 : is_odd(n - 1); }
static int is_odd(unsigned n) { return n == 0 ? 0 : is_even(n - 1); }

// The work after the call keeps the compiler from making a loop of it.
static unsigned deep(unsigned depth) {
    if (depth == 0) {
        unsigned sum = 0;
        for (unsigned i = 0; i < 20000; i++) sum = sum * 17 + (i ^ any());
        return sum;
    }
    unsigned below = deep(depth - 1);
    return below * 5 + depth;
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 40;
    for (int round = 0; round < rounds; round++) {
        Tree *tree = NULL;
        for (int i = 0; i < 12000; i++) tree = insert(tree, any() >> 8);
        printf("%d: tree %u %u\n", round, tree->size, walk(tree, 0));
        drop(tree);
        char letters[] = "freezing";
        printf("%d: permutations %lu\n", round, permute(letters, 0, sizeof letters - 1));
        printf("%d: queens %d\n", round, queens(8, 0, 0, 0, 0));
        printf("%d: ackermann %d\n", round, ackermann(2, 300 + round));
        printf("%d: odd %d\n", round, is_odd(3001 + (unsigned)round));
        printf("%d: deep %u\n", round, deep(3000));
    }
    return 0;
}
