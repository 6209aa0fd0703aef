-- In every database: what is in it, who answers for it, and which world was loaded.
CREATE SCHEMA zaibei_catalogue;
CREATE TABLE zaibei_catalogue.asset (
    name        text PRIMARY KEY,  -- schema.table
    grade       text NOT NULL CHECK (grade IN ('核心', '重要', '一般')),
    owner       text NOT NULL,     -- 首问责任: who answers for it
    contains_pi boolean NOT NULL
);
CREATE TABLE zaibei_catalogue.load (
    only_one        boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    generation      integer NOT NULL,  -- of the generator: another one makes other rows
    seed            bigint  NOT NULL,
    persons         bigint  NOT NULL,
    rows            bigint  NOT NULL,
    objects_written boolean            -- NULL: this database has no objects
);
REVOKE ALL ON SCHEMA public FROM PUBLIC;
