// Five bodies under gravity: floating-point work in short loops over memory.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct body {
    double place[3], speed[3], mass;
};

static struct body bodies[5] = {
    {{0, 0, 0}, {0, 0, 0}, 39.47841760435743},
    {{4.841431442464721, -1.1603200440274284, -0.10362204447112311}, {0.606326392995832, 2.81198684491626, -0.02521836165988763}, 0.037693674870389486},
    {{8.34336671824458, 4.124798564124305, -0.4035234171143214}, {-1.0107743461787924, 1.8256623712304119, 0.008415761376584154}, 0.011286326131968767},
    {{12.894369562139131, -15.111151401698631, -0.22330757889265573}, {1.0827910064415354, 0.8687130181696082, -0.010832637401363636}, 0.0017237240570597112},
    {{15.379697114850917, -25.919314609987964, 0.17925877295037118}, {0.979090732243898, 0.5946989986476762, -0.034755955504078104}, 0.0020336868699246304},
};

static __attribute__((noinline)) void advance(struct body *body, int count, double dt) {
    for (int i = 0; i < count; i++)
        for (int j = i + 1; j < count; j++) {
            double between[3], square = 0;
            for (int axis = 0; axis < 3; axis++) {
                between[axis] = body[i].place[axis] - body[j].place[axis];
                square += between[axis] * between[axis];
            }
            double pull = dt / (square * sqrt(square));
            for (int axis = 0; axis < 3; axis++) {
                body[i].speed[axis] -= between[axis] * body[j].mass * pull;
                body[j].speed[axis] += between[axis] * body[i].mass * pull;
            }
        }
    for (int i = 0; i < count; i++)
        for (int axis = 0; axis < 3; axis++)
            body[i].place[axis] += dt * body[i].speed[axis];
}

int main(int count, char **arguments) {
    int steps = count > 1 ? atoi(arguments[1]) : 1000;
    for (int step = 0; step < steps; step++)
        advance(bodies, 5, 0.001);
    printf("%.12g %.12g\n", bodies[0].place[0], bodies[4].speed[1]);
}
