/* A SPANK plugin that takes pyxis' --container-* options and starts no image: what they were reaches the task as
 * LAB_CONTAINER_IMAGE, LAB_CONTAINER_MOUNTS, ..., so that a test can tell that a command line was accepted as written. */
#include <slurm/spank.h>

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

SPANK_PLUGIN(pyxis_stand_in, 1)

static const struct {
    const char *name;
    int has_argument;
} OPTIONS[] = {
    {"container-image", 1},         {"container-mounts", 1},   {"container-workdir", 1},       {"container-name", 1},
    {"container-env", 1},           {"container-mount-home", 0}, {"no-container-mount-home", 0},
    {"container-remap-root", 0},    {"no-container-remap-root", 0}, {"container-writable", 0}, {"container-readonly", 0},
};
enum { COUNT = sizeof OPTIONS / sizeof *OPTIONS };
static char *values[COUNT];

static int keep(int number, const char *argument, int remote) {
    (void)remote;
    values[number] = strdup(argument ? argument : "1");
    return 0;
}

int slurm_spank_init(spank_t spank, int count, char **arguments) {
    (void)count, (void)arguments;
    for (int i = 0; i < COUNT; i++) {
        struct spank_option option = {
            (char *)OPTIONS[i].name, OPTIONS[i].has_argument ? "ARG" : NULL, "accepted; no image is started",
            OPTIONS[i].has_argument, i, keep,
        };
        if (spank_option_register(spank, &option) != ESPANK_SUCCESS)
            slurm_error("pyxis_stand_in: %s was not registered", OPTIONS[i].name);
    }
    return 0;
}

int slurm_spank_task_init(spank_t spank, int count, char **arguments) {
    (void)count, (void)arguments;
    for (int i = 0; i < COUNT; i++) {
        if (!values[i])
            continue;
        char name[80];
        snprintf(name, sizeof name, "LAB_%s", OPTIONS[i].name);
        for (char *letter = name; *letter; letter++)
            *letter = *letter == '-' ? '_' : (char)toupper((unsigned char)*letter);
        spank_setenv(spank, name, values[i], 1);
        if (!strcmp(OPTIONS[i].name, "container-workdir") && chdir(values[i]))
            return slurm_error("pyxis_stand_in: %s: no such folder", values[i]), -1;
    }
    return 0;
}
