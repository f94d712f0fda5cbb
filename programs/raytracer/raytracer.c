// Draws three spheres on a chequered floor by following light backwards from the eye, line by line. An ordinary C program: it
// knows nothing of una, and nothing in it is there so that it can be frozen.
//
//     una run programs/raytracer.wasm                                      on the terminal
//     una run --mount .=/out programs/raytracer.wasm /out/picture.ppm      as a file

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    double x, y, z;
} Vector;

static Vector vector(double x, double y, double z) { return (Vector){x, y, z}; }
static Vector plus(Vector a, Vector b) { return vector(a.x + b.x, a.y + b.y, a.z + b.z); }
static Vector minus(Vector a, Vector b) { return vector(a.x - b.x, a.y - b.y, a.z - b.z); }
static Vector scaled(Vector a, double s) { return vector(a.x * s, a.y * s, a.z * s); }
static Vector times(Vector a, Vector b) { return vector(a.x * b.x, a.y * b.y, a.z * b.z); }
static double dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
static Vector cross(Vector a, Vector b) {
    return vector(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x);
}
static Vector unit(Vector a) { return scaled(a, 1 / sqrt(dot(a, a))); }

// Chance. Every pixel starts its own sequence, so that a picture is the same however it is drawn.
static uint64_t chance_state;

static double chance(void) {
    chance_state ^= chance_state << 13;
    chance_state ^= chance_state >> 7;
    chance_state ^= chance_state << 17;
    return (double)(chance_state >> 11) / 9007199254740992.0;
}

static Vector any_direction(void) {
    for (;;) {
        Vector v = vector(2 * chance() - 1, 2 * chance() - 1, 2 * chance() - 1);
        double length = dot(v, v);
        if (length > 1e-6 && length <= 1) return scaled(v, 1 / sqrt(length));
    }
}

// The scene.
typedef enum { MATT, METAL, GLASS } Surface;

typedef struct {
    Vector centre;
    double radius;
    Surface surface;
    Vector colour;
} Sphere;

static const Sphere spheres[] = {
    {{-2.15, 1.00, 0.30}, 1.00, METAL, {0.95, 0.72, 0.36}},
    {{0.10, 1.20, 0.00}, 1.20, GLASS, {0.97, 0.99, 1.00}},
    {{2.30, 0.90, 0.60}, 0.90, MATT, {0.85, 0.16, 0.20}},
    {{-0.95, 0.32, 1.75}, 0.32, MATT, {0.16, 0.50, 0.82}},
    {{1.05, 0.26, 1.95}, 0.26, METAL, {0.88, 0.90, 0.92}},
    {{0.20, 0.18, 2.45}, 0.18, MATT, {0.30, 0.72, 0.30}},
    {{-3.60, 0.55, 1.60}, 0.55, MATT, {0.62, 0.30, 0.78}},
    {{3.75, 0.45, 1.70}, 0.45, GLASS, {1.00, 0.95, 0.85}},
};

static const int spheres_count = sizeof spheres / sizeof *spheres;

// A low sun behind the left shoulder.
static Vector sky(Vector direction) {
    Vector sun = unit(vector(-0.62, 0.42, 0.52));
    double height = pow(fmax(direction.y, 0), 0.45), towards = dot(direction, sun);
    if (towards > 0.985) return scaled(vector(1.0, 0.84, 0.60), 30);
    Vector air = plus(scaled(vector(0.98, 0.66, 0.42), 0.85 * (1 - height)), scaled(vector(0.10, 0.24, 0.62), height));
    return plus(air, scaled(vector(1.0, 0.62, 0.30), 0.5 * pow(fmax(towards, 0), 16)));
}

// The light that comes from `direction` to `origin`; every bounce is a call of its own.
static Vector light(Vector origin, Vector direction, int bounces) {
    if (bounces == 0) return vector(0, 0, 0);
    double distance = 1e30;
    const Sphere *hit = NULL;
    for (int i = 0; i < spheres_count; i++) {
        Vector to = minus(origin, spheres[i].centre);
        double b = dot(to, direction), c = dot(to, to) - spheres[i].radius * spheres[i].radius, square = b * b - c;
        if (square <= 0) continue;
        double root = sqrt(square), t = -b - root > 1e-4 ? -b - root : -b + root;
        if (t > 1e-4 && t < distance) distance = t, hit = &spheres[i];
    }
    if (direction.y < -1e-6 && -origin.y / direction.y > 1e-4 && -origin.y / direction.y < distance) {
        Vector at = plus(origin, scaled(direction, -origin.y / direction.y));
        if (fabs(at.x) < 60 && fabs(at.z) < 60) {
            int odd = ((int)floor(at.x) + (int)floor(at.z)) & 1;
            Vector colour = odd ? vector(0.86, 0.84, 0.78) : vector(0.20, 0.23, 0.27);
            Vector scattered = unit(plus(vector(0, 1, 0), any_direction()));
            return times(colour, light(at, scattered, bounces - 1));
        }
    }
    if (!hit) return sky(direction);

    Vector at = plus(origin, scaled(direction, distance));
    Vector normal = scaled(minus(at, hit->centre), 1 / hit->radius);
    Vector next;
    double against = dot(direction, normal);
    switch (hit->surface) {
    case MATT:
        next = unit(plus(against < 0 ? normal : scaled(normal, -1), scaled(any_direction(), 0.999)));
        break;
    case METAL:
        next = unit(plus(minus(direction, scaled(normal, 2 * against)), scaled(any_direction(), 0.04)));
        break;
    case GLASS: {
        int leaving = against > 0;
        double ratio = leaving ? 1.5 : 1 / 1.5, cosine = fabs(against);
        double sine2 = ratio * ratio * (1 - cosine * cosine);
        double base = 0.04, mirrored = base + (1 - base) * pow(1 - cosine, 5);
        Vector outward = leaving ? scaled(normal, -1) : normal;
        if (sine2 >= 1 || chance() < mirrored)
            next = minus(direction, scaled(normal, 2 * against));
        else
            next = plus(scaled(direction, ratio), scaled(outward, ratio * cosine - sqrt(1 - sine2)));
        next = unit(next);
        break;
    }
    }
    return times(hit->colour, light(at, next, bounces - 1));
}

// From light to what a screen shows: bright light saturates slowly, as on film (the curve of Narkowicz, 2015).
static unsigned shade(double value) {
    value *= 0.75;
    double film = value * (2.51 * value + 0.03) / (value * (2.43 * value + 0.59) + 0.14);
    return (unsigned)(255.999 * fmin(1, pow(film, 1 / 2.2)));
}

typedef struct {
    unsigned char red, green, blue;
} Pixel;

static Pixel pixel(int x, int y, int width, int height, int rays) {
    Vector eye = vector(0.6, 2.1, 7.6), ahead = unit(minus(vector(0.1, 0.88, 0), eye));
    Vector right = unit(cross(ahead, vector(0, 1, 0))), up = cross(right, ahead);
    Vector sum = vector(0, 0, 0);
    chance_state = 0x9e3779b97f4a7c15u ^ ((uint64_t)y * 0x100000001b3u + (uint64_t)x) * 0xff51afd7ed558ccdu;
    for (int i = 0; i < rays; i++) {
        double across = (x + chance() - 0.5 * width) / width, down = (0.5 * height - y - chance()) / width;
        Vector direction = unit(plus(ahead, plus(scaled(right, 1.15 * across), scaled(up, 1.15 * down))));
        Vector seen = light(eye, direction, 8);
        // A path that found the sun by luck would stand out as a bright dot.
        sum = plus(sum, vector(fmin(seen.x, 6), fmin(seen.y, 6), fmin(seen.z, 6)));
    }
    sum = scaled(sum, 1.0 / rays);
    return (Pixel){shade(sum.x), shade(sum.y), shade(sum.z)};
}

// Two pixels above each other are one character of the terminal.
static void draw_on_terminal(int width, int height, int rays, int coloured) {
    static const char darkness[] = " .:-=+*#%@";
    Pixel *above = malloc(width * sizeof *above), *below = malloc(width * sizeof *below);
    if (!above || !below) {
        fputs("raytracer: the line does not fit into memory\n", stderr);
        exit(1);
    }
    for (int y = 0; y < height; y += 2) {
        for (int x = 0; x < width; x++) {
            above[x] = pixel(x, y, width, height, rays);
            below[x] = pixel(x, y + 1, width, height, rays);
        }
        for (int x = 0; x < width; x++) {
            Pixel a = above[x], b = below[x];
            if (coloured) {
                printf("\033[38;2;%u;%u;%u;48;2;%u;%u;%um\u2580", a.red, a.green, a.blue, b.red, b.green, b.blue);
            } else {
                unsigned sum = 2 * (a.red + b.red) + 5 * (a.green + b.green) + (a.blue + b.blue);
                putchar(darkness[sum * (sizeof darkness - 2) / (16 * 255)]);
            }
        }
        fputs(coloured ? "\033[0m\n" : "\n", stdout);
        fflush(stdout);
    }
    free(above);
    free(below);
}

static void draw_into_file(const char *path, int width, int height, int rays) {
    FILE *file = fopen(path, "wb");
    if (!file) {
        perror(path);
        exit(1);
    }
    fprintf(file, "P6\n%d %d\n255\n", width, height);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            Pixel p = pixel(x, y, width, height, rays);
            fwrite(&p, sizeof p, 1, file);
        }
        printf("\r%d of %d lines", y + 1, height);
        fflush(stdout);
    }
    putchar('\n');
    if (fclose(file)) {
        perror(path);
        exit(1);
    }
}

static int number(const char *text) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == 0 || *end != 0 || value < 1 || value > 100000) {
        fprintf(stderr, "raytracer: `%s` is not a number from 1 to 100000\n", text);
        exit(2);
    }
    return (int)value;
}

int main(int argc, char **argv) {
    int width = 0, height = 0, rays = 0;
    int coloured = isatty(STDOUT_FILENO);
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--size") && i + 2 < argc) {
            width = number(argv[++i]);
            height = number(argv[++i]);
        } else if (!strcmp(argv[i], "--rays") && i + 1 < argc) {
            rays = number(argv[++i]);
        } else if (!strcmp(argv[i], "--colour")) {
            coloured = 1;
        } else if (argv[i][0] != '-' && !path) {
            path = argv[i];
        } else {
            fputs("usage: raytracer [--size WIDTH HEIGHT] [--rays RAYS] [--colour] [PICTURE.ppm]\n", stderr);
            return 2;
        }
    }
    if (path)
        draw_into_file(path, width ? width : 640, height ? height : 360, rays ? rays : 100);
    else
        draw_on_terminal(width ? width : 76, height ? height : 44, rays ? rays : 16000, coloured);
    return 0;
}
