-- 自然资源和空间地理基础信息库. Owners are in the population and legal entity databases;
-- the pictures are objects of the bucket geo-images, under the hash of their bytes.
CREATE TABLE layer (
    id    integer NOT NULL,
    name  text NOT NULL,
    title text NOT NULL,
    scale integer NOT NULL CHECK (scale > 0)
);
CREATE TABLE image (
    key        text NOT NULL,
    sha256     text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    size_bytes bigint NOT NULL CHECK (size_bytes > 0),
    taken      date NOT NULL
);
CREATE TABLE parcel (
    id           text NOT NULL,
    layer_id     integer NOT NULL,
    area         char(6) NOT NULL,
    west_deg     numeric(9, 6) NOT NULL,
    south_deg    numeric(8, 6) NOT NULL,
    area_m2      integer NOT NULL CHECK (area_m2 > 0),
    outline      text NOT NULL,  -- GeoJSON Polygon
    owner_person text,
    owner_entity text,
    image_key    text,
    CHECK (num_nonnulls(owner_person, owner_entity) = 1)
);
INSERT INTO zaibei_catalogue.asset VALUES
    ('public.layer', '一般', '自然资源厅测绘处', false),
    ('public.image', '重要', '自然资源厅测绘处', false),
    ('public.parcel', '重要', '自然资源厅确权登记局', true);
