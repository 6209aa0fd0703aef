-- 经济治理基础信息库. Who pays is in the legal entity database, for whom in the population's.
CREATE TABLE indicator (
    code  text NOT NULL,
    title text NOT NULL,
    unit  text NOT NULL
);
CREATE TABLE indicator_value (
    code    text NOT NULL,
    area    char(6) NOT NULL,
    quarter text NOT NULL CHECK (quarter ~ '^[0-9]{4}Q[1-4]$'),
    value   numeric(18, 2) NOT NULL
);
CREATE TABLE tax_payment (
    receipt     text NOT NULL,
    credit_code text NOT NULL,
    quarter     text NOT NULL CHECK (quarter ~ '^[0-9]{4}Q[1-4]$'),
    kind        text NOT NULL CHECK (kind IN ('增值税', '企业所得税')),
    amount_fen  bigint NOT NULL CHECK (amount_fen >= 0)
);
CREATE TABLE insurance_payment (
    identity_number text NOT NULL,
    quarter         text NOT NULL CHECK (quarter ~ '^[0-9]{4}Q[1-4]$'),
    credit_code     text NOT NULL,
    amount_fen      bigint NOT NULL CHECK (amount_fen > 0)
);
INSERT INTO zaibei_catalogue.asset VALUES
    ('public.indicator', '一般', '统计局综合处', false),
    ('public.indicator_value', '重要', '统计局综合处', false),
    ('public.tax_payment', '重要', '税务局征管处', false),
    ('public.insurance_payment', '重要', '人力资源和社会保障厅', true);
